/* Remembered keys; see keys.h. */
#include "keys.h"

int keys_find(const struct keys *keys, uint64_t key)
{
    for (int i = 0; i < KEYS_REMEMBERED && keys->keys[i]; i++)
        if (keys->keys[i] == key)
            return i;
    return -1;
}

/* In turn: a put needs two keys, which must not push each other out. */
unsigned keys_add(struct keys *keys, uint64_t key)
{
    int found = keys_find(keys, key);
    unsigned place = found < 0 ? keys->next : (unsigned)found;

    if (found < 0) {
        keys->keys[place] = key;
        keys->next = (keys->next + 1) % KEYS_REMEMBERED;
    }
    return place;
}
