/* How many descriptors and threads this process has. For tests that look for what is left behind. */
#ifndef TESTS_COUNTS_H
#define TESTS_COUNTS_H

#include <dirent.h>

/* With those of `folder` that every folder has; -1: it cannot be read. */
static inline int count_entries(const char *folder)
{
    DIR *directory = opendir(folder);
    int n = 0;

    if (!directory)
        return -1;
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

static inline int count_descriptors(void)
{
    return count_entries("/proc/self/fd");
}

static inline int count_threads(void)
{
    return count_entries("/proc/self/task");
}

#endif
