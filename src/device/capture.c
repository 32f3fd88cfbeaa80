/*
 * Capture and replay: what is submitted to a queue between thrum_queue_capture_begin and _end becomes a graph, which
 * thrum_graph_launch hands to a queue again. The public calls on queues and events ask queue_is_capturing and come here;
 * so does api with collectives, which enter as a function to call at launch (queue_capture_call).
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "device/device_internal.h"

/* ---- a graph: items in order ----------------------------------------------------------------------------------- */

enum item_kind { ITEM_COMMANDS, ITEM_EVENT_RECORD, ITEM_EVENT_WAIT, ITEM_CALL };

struct graph_item {
    enum item_kind kind;
    int lane;
    bool may_end; /* ITEM_COMMANDS: an error can end it without stopping the queue */
    union {
        struct {
            size_t first, n; /* in commands */
        };
        thrum_event_t event;
        struct {
            thrum_status_t (*replay)(void *argument, struct thrum_queue *queue);
            void (*release)(void *argument);
            void *argument;
        };
    };
};

/* One of the queues that were captured together. */
struct graph_lane {
    struct thrum_queue *queue; /* while it is captured */
    struct thrum_device *device;
    uint32_t generation; /* of the device, when the capture began */
};

struct payload {
    uint8_t bytes[THRUM_LINE_PAYLOAD_BYTES];
};

/*
 * Filled by the one thread that captures, in the order of its calls, constant once published. Until then commands that
 * have operands or a payload hold any pointer but NULL there: the arrays still move, see settle_pointers.
 */
struct thrum_graph {
    uint32_t magic;
    struct graph_lane *lanes; /* the first is the queue on which the capture began */
    struct graph_item *items;
    struct thrum_command *commands;
    struct thrum_operand *operands;
    struct payload *payloads;
    size_t nlanes, nitems, ncommands, noperands, npayloads;
    size_t lanes_capacity, items_capacity, commands_capacity, operands_capacity, payloads_capacity;
    thrum_status_t status; /* of the first call that was refused, with its message */
    char message[256];
};

_Static_assert(sizeof(struct thrum_graph) <= GRAPH_HANDLE_BYTES, "graph handle");

static void free_contents(struct thrum_graph *graph)
{
    for (size_t i = 0; i < graph->nitems; i++)
        if (graph->items[i].kind == ITEM_CALL && graph->items[i].release)
            graph->items[i].release(graph->items[i].argument);
    free(graph->lanes);
    free(graph->items);
    free(graph->commands);
    free(graph->operands);
    free(graph->payloads);
}

/* The first refusal decides what capture_end returns. Returns `status`, whose message is the thread's last error. */
static thrum_status_t spoil(struct thrum_graph *graph, thrum_status_t status)
{
    if (!graph->status) {
        graph->status = status;
        strncpy(graph->message, thrum_last_error(), sizeof graph->message - 1);
    }
    return status;
}

/* Room for `more` elements behind the first n; NULL if there is no memory, and the array is as it was. */
static void *grow(void *array, size_t n, size_t more, size_t *capacity, size_t element_bytes)
{
    size_t wanted = *capacity ? *capacity : 16, bytes;

    if (more > SIZE_MAX / 4 - n)
        return NULL;
    if (n + more <= *capacity)
        return array;
    while (wanted < n + more)
        wanted *= 2;
    if (mul_overflows(wanted, element_bytes, &bytes))
        return NULL;
    array = realloc(array, bytes);
    if (array)
        *capacity = wanted;
    return array;
}

#define RESERVE(graph, array, more) \
    reserve((void **)&(graph)->array, (graph)->n##array, more, &(graph)->array##_capacity, \
            sizeof *(graph)->array)
static bool reserve(void **array, size_t n, size_t more, size_t *capacity, size_t element_bytes)
{
    void *grown;

    if (!more)
        return true;
    grown = grow(*array, n, more, capacity, element_bytes);
    if (grown)
        *array = grown;
    return grown;
}

static thrum_status_t no_memory(struct thrum_graph *graph)
{
    return spoil(graph, thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to capture into"));
}

static thrum_status_t add_item(struct thrum_graph *graph, const struct graph_item *item)
{
    if (!RESERVE(graph, items, 1))
        return no_memory(graph);
    graph->items[graph->nitems++] = *item;
    return THRUM_OK;
}

/* ---- recording ------------------------------------------------------------------------------------------------- */

/* Bytes behind the command's payload pointer, 0 if it is not read. */
static size_t payload_bytes(const struct thrum_command *command)
{
    if (!command->payload)
        return 0;
    if ((command->opcode == THRUM_CMD_WRITE_LINE || command->opcode == THRUM_CMD_PUT) &&
        !command->nsrc && !(command->flags & THRUM_CMD_FLAG_FLUSH))
        /* more than fits is refused at launch, by its `bytes` */
        return min_u64(command->bytes, THRUM_LINE_PAYLOAD_BYTES);
    if (command->opcode == THRUM_CMD_SCALE && command->nsrc == 1)
        return thrum_datatype_size((thrum_datatype_t)command->dtype);
    return 0;
}

/* Whether the command can end its submission with an error and leave the queue going. */
static bool may_end(const struct thrum_command *command)
{
    return command->opcode == THRUM_CMD_CALLBACK || command->opcode == THRUM_CMD_WAIT_LINE ||
           command->opcode == THRUM_CMD_PUT || command->flags & THRUM_CMD_FLAG_CONTAIN ||
           (command->opcode == THRUM_CMD_REDUCE && command->redop == THRUM_REDOP_CALLBACK);
}

static void add_command(struct thrum_graph *graph, const struct thrum_command *from)
{
    struct thrum_command *command = &graph->commands[graph->ncommands++];
    size_t noperands = (size_t)from->ndst + from->nsrc, bytes = payload_bytes(from);

    *command = *from;
    if (from->operands && noperands) {
        memcpy(&graph->operands[graph->noperands], from->operands,
               noperands * sizeof *from->operands);
        graph->noperands += noperands;
    }
    if (bytes)
        memcpy(&graph->payloads[graph->npayloads++], from->payload, bytes);
    else
        command->payload = NULL;
}

/*
 * Submissions become one where that changes nothing: an error ends the rest of a submission, so whatever follows one
 * that may end so begins a new one.
 */
static struct graph_item *open_batch(struct thrum_graph *graph, int lane)
{
    struct graph_item *last = graph->nitems ? &graph->items[graph->nitems - 1] : NULL;

    if (last && last->kind == ITEM_COMMANDS && last->lane == lane && !last->may_end)
        return last;
    last = &graph->items[graph->nitems++];
    *last = (struct graph_item){.kind = ITEM_COMMANDS, .lane = lane, .first = graph->ncommands};
    return last;
}

thrum_status_t capture_commands(struct thrum_queue *queue, const struct thrum_command *commands,
                                size_t n)
{
    struct thrum_graph *graph = queue_graph(queue);
    size_t noperands = 0, npayloads = 0;
    struct graph_item *batch;

    if (!commands && n)
        return thrum_fail(THRUM_ERR_INVALID_COMMAND, "commands=NULL with n=%zu", n);
    if (!n)
        return THRUM_OK;
    for (size_t i = 0; i < n; i++) {
        noperands += commands[i].operands ? (size_t)commands[i].ndst + commands[i].nsrc : 0;
        npayloads += payload_bytes(&commands[i]) != 0;
    }
    if (!RESERVE(graph, items, 1) || !RESERVE(graph, commands, n) ||
        !RESERVE(graph, operands, noperands) || !RESERVE(graph, payloads, npayloads))
        return no_memory(graph);
    batch = open_batch(graph, queue->capture_lane);
    for (size_t i = 0; i < n; i++) {
        add_command(graph, &commands[i]);
        batch->may_end |= may_end(&commands[i]);
    }
    batch->n += n;
    return THRUM_OK;
}

thrum_status_t capture_event(struct thrum_queue *queue, struct thrum_event *event, bool is_record)
{
    const struct graph_item item = {.kind = is_record ? ITEM_EVENT_RECORD : ITEM_EVENT_WAIT,
                                    .lane = queue->capture_lane,
                                    .event = event};

    return add_item(queue_graph(queue), &item);
}

thrum_status_t queue_capture_call(struct thrum_queue *queue,
                                  thrum_status_t (*replay)(void *argument,
                                                           struct thrum_queue *queue),
                                  void (*release)(void *argument), void *argument)
{
    const struct graph_item item = {.kind = ITEM_CALL,
                                    .lane = queue->capture_lane,
                                    .replay = replay,
                                    .release = release,
                                    .argument = argument};

    return add_item(queue_graph(queue), &item);
}

thrum_status_t capture_refuse(struct thrum_queue *queue, const char *call)
{
    if (!queue_is_capturing(queue))
        return THRUM_OK;
    return spoil(queue_graph(queue),
                 thrum_fail(THRUM_ERR_INVALID_USAGE, "%s: queue %llu of %s is being captured", call,
                            (unsigned long long)queue->ops->queue_id(queue->impl),
                            queue->device->properties.name));
}

/* ---- begin and end --------------------------------------------------------------------------------------------- */

/* The queue's submissions go to the graph from now on. */
static thrum_status_t add_lane(struct thrum_graph *graph, struct thrum_queue *queue)
{
    if (graph->nlanes == GRAPH_LANES)
        return thrum_fail(THRUM_ERR_LIMIT, "more than %d queues in one capture", GRAPH_LANES);
    if (!RESERVE(graph, lanes, 1))
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to capture a queue");
    graph->lanes[graph->nlanes] = (struct graph_lane){
        .queue = queue, .device = queue->device, .generation = queue->generation};
    queue->capture_lane = (int)graph->nlanes++;
    atomic_store_explicit(&queue->capture, graph, memory_order_release);
    return THRUM_OK;
}

thrum_status_t thrum_queue_capture_begin(thrum_queue_t queue)
{
    struct thrum_graph *graph;
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = capture_refuse(queue, "thrum_queue_capture_begin");
    if (status)
        return status;
    graph = handle_take(HANDLE_GRAPH);
    if (!graph)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a graph handle");
    status = add_lane(graph, queue);
    if (status)
        handle_give(HANDLE_GRAPH, graph);
    return status;
}

thrum_status_t thrum_queue_capture_join(thrum_queue_t queue, thrum_queue_t origin)
{
    thrum_status_t status = queue_check(origin);

    if (!status)
        status = queue_check(queue);
    if (!status && !queue_is_capturing(origin))
        status =
            thrum_fail(THRUM_ERR_INVALID_USAGE, "origin: queue %llu of %s is not being captured",
                       (unsigned long long)origin->ops->queue_id(origin->impl),
                       origin->device->properties.name);
    if (status || queue_graph(queue) == queue_graph(origin))
        return status;
    status = capture_refuse(queue, "thrum_queue_capture_join");
    return status ? status : add_lane(queue_graph(origin), queue);
}

/* The arrays have found their place. */
static void settle_pointers(struct thrum_graph *graph)
{
    const struct thrum_operand *operands = graph->operands;
    const struct payload *payload = graph->payloads;

    for (size_t i = 0; i < graph->ncommands; i++) {
        struct thrum_command *command = &graph->commands[i];

        if (command->operands && command->ndst + command->nsrc) {
            command->operands = operands;
            operands += command->ndst + command->nsrc;
        }
        if (command->payload)
            command->payload = (payload++)->bytes;
    }
}

static void release_queues(struct thrum_graph *graph)
{
    for (size_t i = 0; i < graph->nlanes; i++) {
        atomic_store_explicit(&graph->lanes[i].queue->capture, NULL, memory_order_release);
        graph->lanes[i].queue = NULL;
    }
}

/* The devices may have been reset. */
static thrum_status_t check_lanes(const struct thrum_graph *graph)
{
    thrum_status_t status = THRUM_OK;

    for (size_t i = 0; i < graph->nlanes && !status; i++)
        status = queue_check(graph->lanes[i].queue);
    return status;
}

void capture_drop(struct thrum_queue *queue)
{
    struct thrum_graph *graph = queue_graph(queue);

    if (!graph)
        return;
    release_queues(graph);
    free_contents(graph);
    handle_give(HANDLE_GRAPH, graph);
}

thrum_status_t thrum_queue_capture_end(thrum_queue_t queue, thrum_graph_t *graph_out)
{
    struct thrum_graph *graph;
    thrum_status_t status;

    if (!queue_is_valid(queue))
        return queue_check(queue);
    if (!graph_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "graph_out=NULL");
    graph = queue_graph(queue);
    if (!graph)
        return thrum_fail(THRUM_ERR_INVALID_USAGE, "queue %llu of %s is not being captured",
                          (unsigned long long)queue->ops->queue_id(queue->impl),
                          queue->device->properties.name);
    if (queue->capture_lane)
        return thrum_fail(THRUM_ERR_INVALID_USAGE,
                          "queue %llu of %s has joined the capture of another, which has to end it",
                          (unsigned long long)queue->ops->queue_id(queue->impl),
                          queue->device->properties.name);
    *graph_out = NULL;
    status =
        graph->status ? thrum_set_last_error(graph->status, graph->message) : check_lanes(graph);
    if (status) {
        capture_drop(queue);
        return status;
    }
    release_queues(graph);
    settle_pointers(graph);
    handle_publish(HANDLE_GRAPH, graph);
    *graph_out = graph;
    return THRUM_OK;
}

/* ---- replay ---------------------------------------------------------------------------------------------------- */

static thrum_status_t check_graph(const struct thrum_graph *graph)
{
    if (handle_is_valid(HANDLE_GRAPH, graph))
        return THRUM_OK;
    return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "graph=%p is %s", (const void *)graph,
                      graph ? "destroyed or foreign" : "NULL");
}

static thrum_status_t check_lane(const struct graph_lane *lane, const struct thrum_queue *queue)
{
    thrum_status_t status = queue_check(queue);

    if (status)
        return status;
    if (queue->device != lane->device)
        return thrum_fail(THRUM_ERR_INVALID_QUEUE,
                          "queue is of %s, the graph was captured on another device",
                          queue->device->properties.name);
    if (queue->generation != lane->generation)
        return thrum_fail(THRUM_ERR_RESET, "the graph was captured on %s in generation %u",
                          queue->device->properties.name, lane->generation);
    return THRUM_OK;
}

/* since: the queue's last ticket before the launch, where others wait for the queue and hear of its errors. */
static thrum_status_t launch_item(const struct thrum_graph *graph, const struct graph_item *item,
                                  thrum_queue_t queue, uint64_t since)
{
    switch (item->kind) {
    case ITEM_COMMANDS:
        return thrum_queue_submit(queue, &graph->commands[item->first], item->n, NULL);
    case ITEM_EVENT_RECORD:
        return event_record(item->event, queue, since);
    case ITEM_EVENT_WAIT:
        return thrum_event_wait(item->event, queue);
    case ITEM_CALL:
        break;
    }
    return item->replay(item->argument, queue);
}

thrum_status_t thrum_graph_lanes(thrum_graph_t graph, int *lanes_out)
{
    thrum_status_t status = check_graph(graph);

    if (!status && !lanes_out)
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "lanes_out=NULL");
    if (!status)
        *lanes_out = (int)graph->nlanes;
    return status;
}

thrum_status_t thrum_graph_launch_lanes(thrum_graph_t graph, const thrum_queue_t *queues,
                                        int nqueues)
{
    uint64_t since[GRAPH_LANES];
    thrum_status_t status = check_graph(graph);

    if (!status && (!queues || nqueues < 0 || (size_t)nqueues != graph->nlanes))
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s=%d, the graph has %zu lanes",
                            queues ? "nqueues" : "queues", queues ? nqueues : 0, graph->nlanes);
    for (size_t i = 0; !status && i < graph->nlanes; i++) {
        status = check_lane(&graph->lanes[i], queues[i]);
        if (!status)
            since[i] = atomic_load_explicit(&queues[i]->last_ticket, memory_order_acquire);
    }
    for (size_t i = 0; !status && i < graph->nitems; i++) {
        const struct graph_item *item = &graph->items[i];

        status = launch_item(graph, item, queues[item->lane],
                             graph->nlanes > 1 ? since[item->lane] : EVENT_OF_NO_ERRORS);
    }
    return status;
}

thrum_status_t thrum_graph_launch(thrum_graph_t graph, thrum_queue_t queue)
{
    thrum_status_t status = check_graph(graph);

    for (size_t i = 0; !status && i < graph->nlanes; i++)
        status = check_lane(&graph->lanes[i], queue);
    for (size_t i = 0; !status && i < graph->nitems; i++)
        status = launch_item(graph, &graph->items[i], queue, EVENT_OF_NO_ERRORS);
    return status;
}

void thrum_graph_destroy(thrum_graph_t graph)
{
    if (!handle_is_valid(HANDLE_GRAPH, graph))
        return;
    handle_retract(graph);
    free_contents(graph); /* submit has copied what is in flight */
    handle_give(HANDLE_GRAPH, graph);
}
