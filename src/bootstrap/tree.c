/* The shape of the tree, and how sets of ranks are written in messages. Called by join, allgather, control, root. */
#include <stdio.h>
#include <string.h>

#include "bootstrap/internal.h"

void boot_tree_make(int rank, int nranks, struct boot_tree *out)
{
    int begin = 0, end = nranks, parent = -1, depth = 0;

    for (;;) {
        int64_t rest = end - begin - 1;
        int width = (int)min_u64((uint64_t)rest, BOOT_TREE_WIDTH);
        int next_begin = begin, next_end = end;

        *out = (struct boot_tree){.rank = rank,
                                  .nranks = nranks,
                                  .end = end,
                                  .parent = parent,
                                  .depth = depth,
                                  .nchildren = width};
        for (int i = 0; i < width; i++) {
            out->child[i] = begin + 1 + (int)(rest * i / width);
            out->child_end[i] = begin + 1 + (int)(rest * (i + 1) / width);
            if (rank >= out->child[i] && rank < out->child_end[i]) {
                next_begin = out->child[i];
                next_end = out->child_end[i];
            }
        }
        if (rank == begin)
            return;
        parent = begin;
        begin = next_begin;
        end = next_end;
        depth++;
    }
}

void boot_ranks_text(const bool *missing, int nranks, char *text, size_t bytes)
{
    char list[BOOT_MESSAGE_BYTES];
    size_t used = 0;
    int count = 0;

    list[0] = 0;
    for (int r = 0; r < nranks; r++) {
        int last = r;

        if (!missing[r])
            continue;
        while (last + 1 < nranks && missing[last + 1])
            last++;
        count += last - r + 1;
        if (used + 64 > sizeof list || used + 64 > bytes) {
            int more = 0;
            for (int i = r; i < nranks; i++)
                more += missing[i];
            snprintf(list + used, sizeof list - used, " and %d more", more);
            count += more - (last - r + 1);
            break;
        }
        if (last == r)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%d", used ? ", " : "", r);
        else
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%d%s%d", used ? ", " : "",
                                     r, last == r + 1 ? ", " : "-", last);
        r = last;
    }
    snprintf(text, bytes, "%s %s", count == 1 ? "rank" : "ranks", list);
}
