/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting, time, memory, chance; the faults that are to come. */
#include "kernel/kernel.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

struct kernel *kernel;
uint32_t kernel_allocations;

const char *__asan_default_options(void);

/* Tables come and go with every input: a large quarantine is all page faults. */
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=4";
}

ssize_t __wrap_write(int fd, const void *from, size_t len);
int __wrap_close(int fd);
int __wrap_epoll_create1(int flags);
int __wrap_epoll_ctl(int wait_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_wait(int wait_fd, struct epoll_event *events, int most, int timeout);
int __wrap_eventfd(unsigned int initial, int flags);
ssize_t __wrap_getrandom(void *out, size_t len, unsigned int flags);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_getpriority(__priority_which_t which, id_t who);
long __wrap_syscall(long number, ...);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

ssize_t __real_write(int fd, const void *from, size_t len);
int __real_close(int fd);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);

bool kernel_is_due(enum call call)
{
	struct fault *fault = &kernel->fault[call];

	if (kernel->interrupt_after && --kernel->interrupt_after == 0)
		kernel->interrupt(kernel);
	if (!fault->times)
		return false;
	if (fault->skip) {
		fault->skip--;
		return false;
	}
	return true;
}

/* What must end dp_run, and with which error; 0: nothing. */
static int fatal_error(enum call call, int error)
{
	switch (call) {
	case call_wait:
		return error != EINTR ? error : 0;
	case call_tun_read:
		if (!error)
			return kernel->dp->config.vnet_hdr ? EPROTO : EIO;
		return error != EINTR && error != EAGAIN ? error : 0;
	case call_recvmmsg:
		return error == EBADF || error == EINVAL ? error : 0;
	default:
		return 0;
	}
}

int kernel_fail(enum call call)
{
	int error = kernel->fault[call].error;

	kernel->fault[call].times--;
	if (!kernel->fatal_error)
		kernel->fatal_error = fatal_error(call, error);
	errno = error;
	return -1;
}

static bool is_readable(int fd)
{
	const struct queue *queue;

	if (fd == kernel_stop_fd)
		return kernel->dp->stopping;
	CHECK(fd >= kernel_tun_fd && fd < kernel_receive_fd + kernel_queues);
	queue = fd < kernel_receive_fd ? &kernel->tun[fd - kernel_tun_fd] : &kernel->underlay[fd - kernel_receive_fd];
	return queue->taken < queue->used;
}

/* What the worker waits for, in the order it said, which is that of the events. */
static struct {
	int fd;
	epoll_data_t data;
} watched[2 * kernel_queues + 1];
static uint32_t watched_used;

int __wrap_epoll_create1(int flags)
{
	bool is_bulk = kernel->is_bulk_next;

	CHECK(flags == EPOLL_CLOEXEC);
	errno = EMFILE;
	if (kernel->refused & kernel_refuses_epoll)
		return -1;
	kernel->open++;
	kernel->is_bulk_next = !is_bulk;
	if (is_bulk)
		return kernel_bulk_wait_fd;
	watched_used = 0;
	return kernel_wait_fd;
}

/* A queue that floods is to go to the bulk worker, which no thread runs here: it is refused there, and taken back. */
static uint32_t handed_over = UINT32_MAX;

int __wrap_epoll_ctl(int wait_fd, int operation, int fd, struct epoll_event *event)
{
	if (operation == EPOLL_CTL_DEL) {
		CHECK(wait_fd == kernel_wait_fd && handed_over == UINT32_MAX);
		for (handed_over = 0; watched[handed_over].fd != fd; handed_over++)
			CHECK(handed_over < watched_used);
		kernel->seen.handovers++;
		return 0;
	}
	CHECK(operation == EPOLL_CTL_ADD && event->events == EPOLLIN);
	errno = ENOSPC;
	if (fd == kernel->unwatched_fd)
		return -1;
	if (wait_fd == kernel_bulk_wait_fd) {
		CHECK(fd == kernel_stop_fd || fd == watched[handed_over].fd);
		return fd == kernel_stop_fd ? 0 : -1;
	}
	CHECK(wait_fd == kernel_wait_fd);
	if (handed_over != UINT32_MAX) {
		CHECK(fd == watched[handed_over].fd && event->data.u32 == watched[handed_over].data.u32);
		handed_over = UINT32_MAX;
		return 0;
	}
	CHECK(watched_used < 2 * kernel_queues + 1);
	watched[watched_used].fd = fd;
	watched[watched_used++].data = event->data;
	return 0;
}

int __wrap_epoll_wait(int wait_fd, struct epoll_event *events, int most, int timeout)
{
	CHECK(wait_fd == kernel_wait_fd && most >= (int)watched_used && (timeout == 0 || timeout == -1));
	kernel->seen.sleeps += timeout != 0;
	if (kernel_is_due(call_wait))
		return kernel_fail(call_wait);
	for (;;) {
		int ready = 0;

		for (uint32_t i = 0; i < watched_used; i++)
			if (is_readable(watched[i].fd))
				events[ready++] = (struct epoll_event){.events = EPOLLIN, .data = watched[i].data};
		if (ready || timeout == 0)
			return ready;
		if (!kernel->next(kernel))
			dp_stop(kernel->dp);
	}
}

ssize_t __wrap_write(int fd, const void *from, size_t len)
{
	return fd == kernel_stop_fd ? (ssize_t)len : __real_write(fd, from, len);
}

int __wrap_close(int fd)
{
	if (fd < kernel_fd)
		return __real_close(fd);
	CHECK((fd == kernel_stop_fd || fd == kernel_wait_fd || fd == kernel_bulk_wait_fd) && kernel->open > 0);
	if (fd != kernel_stop_fd)
		kernel->is_bulk_next = false;
	kernel->open--;
	return 0;
}

int __wrap_eventfd(unsigned int initial, int flags)
{
	CHECK(initial == 0 && flags == (EFD_CLOEXEC | EFD_NONBLOCK));
	errno = EMFILE;
	if (kernel->refused & kernel_refuses_eventfd)
		return -1;
	kernel->open++;
	return kernel_stop_fd;
}

ssize_t __wrap_getrandom(void *out, size_t len, unsigned int flags)
{
	(void)flags;
	memset(out, 0x5a, len);
	return kernel->refuses_randomness ? -1 : (ssize_t)len;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	if (!kernel)
		return __real_clock_gettime(clock, now);
	kernel->clock_ns += kernel->tick_ns;
	*now = (struct timespec){(time_t)(kernel->clock_ns / 1000000000), (long)(kernel->clock_ns % 1000000000)};
	return 0;
}

int __wrap_getpriority(__priority_which_t which, id_t who)
{
	CHECK(which == PRIO_PROCESS && who == 0);
	return kernel->scheduling.nice;
}

/* struct sched_attr, as sched_setattr(2) has it. */
struct wish {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t unused[2];
};

/* The core makes one call without a name of its own. */
long __wrap_syscall(long number, ...)
{
	struct scheduling *scheduling = &kernel->scheduling;
	const struct wish *wish;
	va_list arguments;

	va_start(arguments, number);
	CHECK(number == SYS_sched_setattr && va_arg(arguments, int) == 0);
	wish = va_arg(arguments, const struct wish *);
	CHECK(va_arg(arguments, int) == 0);
	va_end(arguments);
	CHECK(wish->size == sizeof(*wish) && !wish->policy && !wish->flags && !wish->priority && wish->nice >= -20);
	scheduling->asked++;
	errno = scheduling->error;
	if (scheduling->error)
		return -1;
	scheduling->nice = wish->nice;
	scheduling->slice_ns = wish->runtime;
	return 0;
}

static bool is_refused_memory(void)
{
	return kernel_allocations && --kernel_allocations == 0;
}

void *__wrap_malloc(size_t size)
{
	return is_refused_memory() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return is_refused_memory() ? NULL : __real_calloc(count, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	return is_refused_memory() ? NULL : __real_aligned_alloc(alignment, size);
}
