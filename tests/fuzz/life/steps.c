/* SPDX-License-Identifier: Apache-2.0 */
/* What a step of the input does: mostly what pods and peers would, with one thing wrong. */
#include "life/steps.h"

#include <errno.h>

static void step_fault(struct play *play)
{
	static const int errors[16] = {EAGAIN, ENOBUFS, EMSGSIZE, EIO, EINVAL, ECONNREFUSED, EPERM, EINTR,
				       ENETUNREACH, EBADF, ENOMEM, 0, EAGAIN, EIO, EINTR, EINVAL};
	uint32_t what = take8(play), when = take8(play), call = (what & 15) % calls;
	int error = errors[what >> 4];

	if (!error && call != call_tun_read)
		error = EPIPE;
	play->kernel.fault[call] = (struct fault){.skip = when & 31, .times = 1 + (when >> 5), .error = error};
}

static void step_time(struct play *play)
{
	static const uint32_t milliseconds[4] = {50, 1000, 3001, 10 * 60 * 1000 + 1};
	uint32_t what = take8(play), forbid = take8(play) & DP_OFFLOAD_ALL;

	play->kernel.clock_ns += (uint64_t)milliseconds[what & 3] * 1000000;
	if (what & 0x80) {
		play->forbid = forbid;
		play->kernel.interrupt_after = 1 + (what >> 2 & 31);
	}
}

bool take_steps(struct play *play)
{
	/* All that was offered is in the core's own memory now. */
	for (uint32_t i = 0; i < kernel_queues; i++) {
		play->kernel.tun[i].used = play->kernel.tun[i].taken = 0;
		play->kernel.underlay[i].used = play->kernel.underlay[i].taken = 0;
	}
	play->arena_used = 0;
	play->has_queue = false;
	if (play->is_commit_due)
		commit(play);
	play->is_commit_due = false;
	while (play->at < play->end && play->steps++ < steps_max) {
		uint32_t step = take8(play);

		if (!play->has_queue)
			play->queue = (step >> 6 & 1) % play->kernel.dp->config.edges[0].tuns;
		play->has_queue = true;
		switch (step & 15) {
		case 0: case 1: case 2: case 3: step_out(play, false); break;
		case 4: case 5: case 6: case 7: step_in(play, false); break;
		case 8: step_out(play, true); break;
		case 9: step_in(play, true); break;
		case 10: step_set(play); break;
		case 11: step_clear(play); break;
		case 12: play->is_commit_due = true; break;
		case 13: case 14: step_fault(play); break;
		case 15: step_time(play); break;
		}
		if (!(step & 0x80))
			return true;
	}
	for (uint32_t i = 0; i < kernel_queues; i++)
		if (play->kernel.tun[i].used || play->kernel.underlay[i].used)
			return true;
	return false;
}
