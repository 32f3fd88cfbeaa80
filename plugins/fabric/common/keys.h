/*
 * Which keys of a peer's regions a connection remembers, and where in an array of the caller's what it knows of them lies.
 * Compiled into the fabrics that ask the peer about them (ofi, tcp, verbs), which call it under a lock of their own. And
 * which keys an endpoint has given itself.
 */
#ifndef FABRIC_KEYS_H
#define FABRIC_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#define KEYS_REMEMBERED 64

struct keys {
    uint64_t keys[KEYS_REMEMBERED]; /* 0: free */
    unsigned next;
};

/* The place of `key`, which is not 0; -1: it is not remembered. */
int keys_find(const struct keys *keys, uint64_t key);

/* Remembers `key`, if need be instead of the oldest one: its place. */
unsigned keys_add(struct keys *keys, uint64_t key);

/*
 * Whether the key is of a region that is, or was, the endpoint's: each has a salt of its own in its upper half, which has
 * gone up from `first`, which none has, to `last`.
 */
static inline bool keys_were_given(uint64_t key, uint32_t first, uint32_t last)
{
    return (uint32_t)(key >> 32) - first - 1 < last - first;
}

#endif
