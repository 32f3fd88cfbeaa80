/* What the tests of captures share. */
#ifndef CAPTURE_TEST_H
#define CAPTURE_TEST_H

#include "device_test.h"

#define BYTES 256

static inline thrum_status_t count_up(void *argument)
{
    ++*(int *)argument;
    return THRUM_OK;
}

static inline thrum_graph_t end(thrum_queue_t queue)
{
    thrum_graph_t graph = NULL;

    assert_ok(thrum_queue_capture_end(queue, &graph));
    assert_non_null(graph);
    return graph;
}

static inline void assert_bytes(thrum_queue_t queue, const char *address, int byte)
{
    uint8_t host[BYTES];

    assert_ok(thrum_copy_to_host(queue, host, address, BYTES));
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(host[i], byte);
}

#endif
