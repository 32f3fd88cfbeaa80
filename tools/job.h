/* What tools that run as the ranks of a job share: joining, leaving, checking, telling each other. */
#ifndef TOOLS_JOB_H
#define TOOLS_JOB_H

#include <stddef.h>

#include <thrum/thrum.h>

struct job {
    int rank, nranks;
    thrum_device_t device; /* the first that is free */
    thrum_queue_t queue;
    thrum_comm_t comm; /* of all ranks */
};

/* Says what failed, for the rank, and ends the program, unless the status is OK. */
void job_check(thrum_status_t status, const char *what);

/*
 * First of all. program: for messages, kept; exit_status: job_check's. Returns the rank that a launcher has given this process,
 * 0 without one: so that one of them says what is wrong with the options.
 */
int job_begin(const char *program, int exit_status);
/* Joins the ranks that a launcher has started; without one, a single rank. Collective; blocks. */
void job_join(struct job *job);
/* Waits for all ranks, and closes everything. Collective; blocks. */
void job_leave(struct job *job);

/* all[r] <- rank r's `mine`, bytes each (not 0); mine may lie in all. Collective; blocks. */
void job_gather(struct job *job, const void *mine, void *all, size_t bytes);

#endif
