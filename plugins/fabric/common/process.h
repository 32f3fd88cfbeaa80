/*
 * The process behind a fabric address: does it live? Where both are on one host and in one pid namespace the kernel says
 * so at once. Compiled into the fabrics that send through libraries which do not notice (ofi, verbs); called by their
 * peer.c, and when endpoints open and close.
 */
#ifndef FABRIC_PROCESS_H
#define FABRIC_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* An open endpoint of this process. Part of the caller's, who leaves it alone. */
struct process_endpoint {
    struct process_endpoint *next; /* under the list's lock */
    uint64_t token;
};

/* `token`: what the endpoint's address says of it, random. */
void process_endpoint_add(struct process_endpoint *endpoint, uint64_t token);
/* Nothing happens if it was not added. */
void process_endpoint_remove(struct process_endpoint *endpoint);

/* Hash of boot id and a namespace of this process, such as /proc/self/ns/net. 0: nobody knows. */
uint64_t process_namespace_hash(const char *file);

/* Of the pid namespace: pids mean the same to all who have it. 0: nobody knows. */
uint64_t process_boot_hash(void);

/*
 * Sets `fd_out` to a descriptor that tells when process `pid`, of an address with `boot` and `token`, is gone; -1: it
 * cannot be watched from here. Returns 0, ESRCH (it has ended), ENOENT (it is this process, and the endpoint is closed),
 * or EMFILE or ENFILE.
 */
int process_watch(uint64_t boot, int32_t pid, uint64_t token, int *fd_out);

bool process_is_gone(int fd); /* -1: false */

#endif
