/*
 * The file `flannel` of `dataplane install-cni --runtime`: starts the plugin with a Python that was carried to the host.
 *
 * Static, so that it runs on any Linux of its architecture, whatever C library is there, or none. The installer appends
 * the name of the runtime's directory, which is beside this file; so one rename switches from one runtime to the next.
 * What must stay true: our environment goes on unchanged, it is what the container runtime says to the delegate.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NAME_SIZE = 64 }; /* bytes at the end of this file, filled up with NUL */

static char self[PATH_MAX]; /* our own path, then our directory, with a slash at the end */
static char name[NAME_SIZE + 1];

/* A CNI error (CNI specification 1.1.0, "Error"); 106 is in docs/cni.md. */
static int fail(const char *what)
{
	printf("{\"cniVersion\":\"1.0.0\",\"code\":106,\"msg\":\"cannot start the CNI plugin flannel: %s: %s\","
	       "\"details\":\"install it again: dataplane install-cni --runtime\"}\n",
	       what, strerror(errno));
	return 1;
}

/* Read the name at our end; returns 0, or -1 with errno. */
static int read_name(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (lseek(fd, -NAME_SIZE, SEEK_END) < 0 || read(fd, name, NAME_SIZE) != NAME_SIZE)
		return -1;
	if (name[0] != '.' || strchr(name, '/')) {
		errno = EINVAL; /* never installed: nothing was appended */
		return -1;
	}
	return close(fd);
}

int main(void)
{
	static char loader[2 * PATH_MAX], libraries[2 * PATH_MAX], python[2 * PATH_MAX], plugin[2 * PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length < 0 || read_name())
		return fail("/proc/self/exe");
	strrchr(self, '/')[1] = '\0';
	snprintf(loader, sizeof(loader), "%s%s/loader", self, name);
	snprintf(libraries, sizeof(libraries), "%s%s/libraries", self, name);
	snprintf(python, sizeof(python), "%s%s/bin/python", self, name);
	snprintf(plugin, sizeof(plugin), "%s%s/flannel.pyz", self, name);
	/* UTF-8 whatever the locale: the codecs of others are not carried. */
	execl(loader, loader, "--library-path", libraries, python, "-IS", "-X", "utf8", plugin, (char *)NULL);
	return fail("the carried runtime");
}
