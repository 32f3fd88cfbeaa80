/*
 * A set of live handles: what tells a good handle from a freed or wild one, without touching what it points to. Looking
 * one up takes no lock. Used by both libraries of this folder, each with its own copy.
 */
#ifndef FRONTEND_NCCL_HANDLE_SET_H
#define FRONTEND_NCCL_HANDLE_SET_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct handle_table;

struct handle_set {
    pthread_mutex_t lock; /* of changes */
    struct handle_table *_Atomic table; /* NULL: empty. Outgrown ones stay, for who still looks */
    size_t live; /* under the lock */
};
#define HANDLE_SET_INITIALIZER \
    { \
        .lock = PTHREAD_MUTEX_INITIALIZER \
    }

/* The value that belongs to the key; NULL: it is not in the set. Any thread. */
void *handle_set_find(struct handle_set *set, const void *key);
/* false: no memory. The key is not NULL and not in the set, the value not NULL. */
bool handle_set_add(struct handle_set *set, const void *key, void *value);
/* Takes the key out and returns its value: only one of several threads gets it, the others NULL. */
void *handle_set_remove(struct handle_set *set, const void *key);

#endif
