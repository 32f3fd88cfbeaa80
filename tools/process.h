/* The processes of this host that have communicators, by their abstract unix sockets: for thrum-ras and thrum-trace. */
#ifndef TOOLS_PROCESS_H
#define TOOLS_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process {
    pid_t pid; /* by its own reckoning */
    uint64_t space; /* inode of the PID namespace, as of a container, where that is its number */
    pid_t here; /* its number here; 0: not known, or it cannot be seen from here */
};

/* The memory; ends the program where there is none. */
void *process_must(void *memory);

/* The argument of --pid; ends the program, with status 2, where it is no number of a process. */
pid_t process_pid_option(const char *text);

/* Those that listen at `name`, such as STATUS_SOCKET, each once. Returns how many there are; *out is from malloc. */
size_t process_find(const char *name, struct process **out);

/* What the kernel says of a process, where that explains a silence; "" else. Static, as all reasons here. */
const char *process_state(const struct process *process);

/* Whether it listens no more, as one that is just ending. */
bool process_is_over(const struct process *process, const char *name);

/* A connection that does not block; -1: there is none, and *why_out, perhaps "", says why. Sets `here` where it was not known. */
int process_call(struct process *process, const char *name, const char **why_out);

#endif
