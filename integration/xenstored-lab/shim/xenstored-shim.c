/*
 * Preloaded into a real xenstored so that it runs on a machine without Xen.
 *
 * It stands in for the three things xenstored asks a hypervisor for:
 *
 *   event channels    a FIFO, $XENSTORED_LAB/events, that carries port numbers
 *   shared rings      files, $XENSTORED_LAB/ring-<domid>, mapped shared
 *   who is alive      a domain exists while its ring file does; dom0 always
 *
 * So a test can be a guest as xenstored sees one, permissions and quotas
 * included: it makes the ring file, has the domain introduced over dom0's
 * socket, and speaks through the ring.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

/* Ports of this shim; a guest's port is FIRST_GUEST_PORT + domid. */
#define VIRQ_PORT 1
#define DOM0_PORT 2
#define FIRST_GUEST_PORT 100

static int events_fd = -1;

/* A handle that is only compared with NULL and passed back. */
static char a_handle;

static void lab_path(char *out, size_t size, const char *name, long number)
{
    const char *dir = getenv("XENSTORED_LAB");

    if (number >= 0)
        snprintf(out, size, "%s/%s-%ld", dir ? dir : ".", name, number);
    else
        snprintf(out, size, "%s/%s", dir ? dir : ".", name);
}

/*
 * The test holds the other end of stdin. When the test goes away, however it
 * does, this xenstored goes too.
 */
static void *exit_with_parent(void *unused)
{
    char byte;
    ssize_t n;

    (void)unused;
    do
        n = read(STDIN_FILENO, &byte, 1);
    while (n > 0 || (n < 0 && errno == EINTR));
    _exit(0);
}

__attribute__((constructor)) static void start(void)
{
    pthread_t thread;

    /* Whatever xenstored may start must not be given the shim. */
    unsetenv("LD_PRELOAD");
    if (pthread_create(&thread, NULL, exit_with_parent, NULL) == 0)
        pthread_detach(thread);
}

/* --- the hypervisor ------------------------------------------------------ */

xc_interface *xc_interface_open(xentoollog_logger *logger,
                                xentoollog_logger *dombuild_logger,
                                unsigned open_flags)
{
    (void)logger; (void)dombuild_logger; (void)open_flags;
    return (xc_interface *)&a_handle;
}

int xc_interface_close(xc_interface *xch)
{
    (void)xch;
    return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first_domid,
                      unsigned int max_doms, xc_dominfo_t *info)
{
    char path[4096];

    (void)xch;
    if (max_doms == 0)
        return 0;
    if (first_domid != 0) {
        lab_path(path, sizeof(path), "ring", first_domid);
        if (access(path, F_OK) != 0)
            return 0;
    }
    memset(info, 0, sizeof(*info));
    info->domid = first_domid;
    info->running = 1;
    return 1;
}

/* --- event channels ------------------------------------------------------ */

static xenevtchn_handle *events_open(void)
{
    char path[4096];

    lab_path(path, sizeof(path), "events", -1);
    /* For writing too, or the FIFO reads as ended when no guest has it open. */
    events_fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return events_fd < 0 ? NULL : (xenevtchn_handle *)&a_handle;
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    (void)logger; (void)flags;
    return events_open();
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned flags)
{
    (void)logger; (void)fd; (void)flags;
    return events_open();
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    (void)xce;
    return events_fd;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    (void)xce; (void)virq;
    return VIRQ_PORT;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid,
                                                     evtchn_port_t remote_port)
{
    (void)xce; (void)remote_port;
    return domid == 0 ? DOM0_PORT : FIRST_GUEST_PORT + (int)domid;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce; (void)port;
    return 0;
}

/* Port numbers are four bytes, so that a FIFO never splits one. */
xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port;

    (void)xce;
    if (read(events_fd, &port, sizeof(port)) != sizeof(port))
        return -1;
    return (int)port;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce; (void)port;
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    char path[4096];
    ssize_t written;
    int fd;

    (void)xce;
    if (port < FIRST_GUEST_PORT)
        return 0;
    lab_path(path, sizeof(path), "kick", (long)port - FIRST_GUEST_PORT);
    fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return 0;
    /* A full FIFO is a kick that is already on its way. */
    written = write(fd, "k", 1);
    (void)written;
    close(fd);
    return 0;
}

/* --- grants -------------------------------------------------------------- */

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    (void)logger; (void)open_flags;
    return (xengnttab_handle *)&a_handle;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    (void)xgt;
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t nr_grants)
{
    (void)xgt; (void)nr_grants;
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    char path[4096];
    void *page;
    int fd;

    (void)xgt; (void)ref;
    lab_path(path, sizeof(path), "ring", domid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    page = mmap(NULL, getpagesize(), prot, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    (void)xgt;
    return munmap(start_address, (size_t)count * getpagesize());
}

/* --- dom0's kernel ------------------------------------------------------- */

static int memory_file(const void *content, size_t size)
{
    int fd = memfd_create("xenstored-lab", MFD_CLOEXEC);

    if (fd < 0)
        return -1;
    if (ftruncate(fd, getpagesize()) != 0 ||
        pwrite(fd, content, size, 0) != (ssize_t)size) {
        close(fd);
        return -1;
    }
    return fd;
}

int open(const char *path, int flags, ...)
{
    static int (*next_open)(const char *, int, ...);
    mode_t mode = 0;
    va_list args;

    if (strcmp(path, "/proc/xen/xsd_port") == 0)
        return memory_file("2", 1);
    if (strcmp(path, "/proc/xen/xsd_kva") == 0)
        return memory_file("", 0);

    if (next_open == NULL)
        next_open = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return next_open(path, flags, mode);
}
