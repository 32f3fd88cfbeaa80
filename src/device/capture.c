/*
 * Capture and replay: what is submitted to a queue between thrum_queue_capture_begin and _end becomes a graph, which
 * thrum_graph_launch hands to a queue again. The public calls on queues and events ask queue_is_capturing and come here;
 * so does api with collectives, which enter as a function to call at launch (thrum_queue_capture_call).
 */
#include <pthread.h>
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
        struct {
            thrum_event_t event;
            size_t mark; /* which of a launch's marks the record makes, or the wait is for */
        };
        struct {
            const struct thrum_graph_call *call;
            void *argument;
        };
    };
};

#define NO_MARK SIZE_MAX /* a wait for an event that was not recorded before it in the graph */

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
 * Filled under `recording`, in the order of the calls, constant once published. Until then commands that have operands or
 * a payload hold any pointer but NULL there: the arrays still move, see settle_pointers.
 */
struct thrum_graph {
    uint32_t magic;
    uint64_t number; /* of the capture */
    size_t promised; /* calls of groups that have not ended */
    struct graph_lane *lanes; /* the first is the queue on which the capture began */
    struct graph_item *items;
    struct thrum_command *commands;
    struct thrum_operand *operands;
    struct payload *payloads;
    size_t nlanes, nitems, ncommands, noperands, npayloads, nmarks;
    size_t lanes_capacity, items_capacity, commands_capacity, operands_capacity, payloads_capacity;
    thrum_status_t status; /* of the first call that was refused, with its message */
    char message[256];
};

_Static_assert(sizeof(struct thrum_graph) <= GRAPH_HANDLE_BYTES, "graph handle");

/* Of all graphs that are being filled, and of the queues' `capture`: several threads may drive the lanes of one. */
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

static void free_contents(struct thrum_graph *graph)
{
    for (size_t i = 0; i < graph->nitems; i++)
        if (graph->items[i].kind == ITEM_CALL && graph->items[i].call->release)
            graph->items[i].call->release(graph->items[i].argument);
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

/* Under `recording`: the queue's graph; NULL with a status if there is none any more. */
static struct thrum_graph *find_graph(const struct thrum_queue *queue, thrum_status_t *status_out)
{
    struct thrum_graph *graph = queue_graph(queue);

    *status_out = graph ? THRUM_OK
                        : thrum_fail(THRUM_ERR_INVALID_USAGE,
                                     "the capture was ended while a call for it was made");
    return graph;
}

static thrum_status_t add_commands(struct thrum_graph *graph, int lane,
                                   const struct thrum_command *commands, size_t n)
{
    size_t noperands = 0, npayloads = 0;
    struct graph_item *batch;

    for (size_t i = 0; i < n; i++) {
        noperands += commands[i].operands ? (size_t)commands[i].ndst + commands[i].nsrc : 0;
        npayloads += payload_bytes(&commands[i]) != 0;
    }
    if (!RESERVE(graph, items, 1) || !RESERVE(graph, commands, n) ||
        !RESERVE(graph, operands, noperands) || !RESERVE(graph, payloads, npayloads))
        return no_memory(graph);
    batch = open_batch(graph, lane);
    for (size_t i = 0; i < n; i++) {
        add_command(graph, &commands[i]);
        batch->may_end |= may_end(&commands[i]);
    }
    batch->n += n;
    return THRUM_OK;
}

thrum_status_t capture_commands(struct thrum_queue *queue, const struct thrum_command *commands,
                                size_t n)
{
    struct thrum_graph *graph;
    thrum_status_t status;

    if (!commands && n)
        return thrum_fail(THRUM_ERR_INVALID_COMMAND, "commands=NULL with n=%zu", n);
    if (!n)
        return THRUM_OK;
    pthread_mutex_lock(&recording);
    graph = find_graph(queue, &status);
    if (graph)
        status = add_commands(graph, queue->capture_lane, commands, n);
    pthread_mutex_unlock(&recording);
    return status;
}

/* The mark of the event's newest record in the graph. */
static size_t find_mark(const struct thrum_graph *graph, const struct thrum_event *event)
{
    for (size_t i = graph->nitems; i--;)
        if (graph->items[i].kind == ITEM_EVENT_RECORD && graph->items[i].event == event)
            return graph->items[i].mark;
    return NO_MARK;
}

thrum_status_t capture_event(struct thrum_queue *queue, struct thrum_event *event, bool is_record)
{
    struct graph_item item = {.kind = is_record ? ITEM_EVENT_RECORD : ITEM_EVENT_WAIT,
                              .event = event};
    struct thrum_graph *graph;
    thrum_status_t status;

    pthread_mutex_lock(&recording);
    graph = find_graph(queue, &status);
    if (graph) {
        item.lane = queue->capture_lane;
        item.mark = is_record ? graph->nmarks : find_mark(graph, event);
        status = add_item(graph, &item);
        graph->nmarks += is_record && !status;
    }
    pthread_mutex_unlock(&recording);
    return status;
}

thrum_status_t thrum_queue_capture_call(thrum_queue_t queue, const struct thrum_graph_call *call,
                                        void *argument)
{
    struct graph_item item = {.kind = ITEM_CALL, .call = call, .argument = argument};
    struct thrum_graph *graph;
    thrum_status_t status = queue_check(queue);

    if (!status && (!call || call->size < sizeof *call || !call->replay))
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "call=NULL, or its size or replay");
    if (!status && !queue_is_capturing(queue))
        status = thrum_fail(THRUM_ERR_INVALID_USAGE, "queue %llu of %s is not being captured",
                            (unsigned long long)queue->ops->queue_id(queue->impl),
                            queue->device->properties.name);
    if (status)
        return status;
    pthread_mutex_lock(&recording);
    graph = find_graph(queue, &status);
    if (graph) {
        item.lane = queue->capture_lane;
        status = add_item(graph, &item);
    }
    pthread_mutex_unlock(&recording);
    return status;
}

thrum_status_t capture_refuse(struct thrum_queue *queue, const char *call)
{
    struct thrum_graph *graph;
    thrum_status_t status;

    if (!queue_is_capturing(queue))
        return THRUM_OK;
    status = thrum_fail(THRUM_ERR_INVALID_USAGE, "%s: queue %llu of %s is being captured", call,
                        (unsigned long long)queue->ops->queue_id(queue->impl),
                        queue->device->properties.name);
    pthread_mutex_lock(&recording);
    graph = queue_graph(queue);
    if (graph)
        (void)!spoil(graph, status);
    pthread_mutex_unlock(&recording);
    return graph ? status : THRUM_OK;
}

uint64_t capture_promise(struct thrum_queue *queue)
{
    struct thrum_graph *graph;
    uint64_t number = 0;

    if (!queue_is_capturing(queue))
        return 0;
    pthread_mutex_lock(&recording);
    graph = queue_graph(queue);
    if (graph) {
        graph->promised++;
        number = graph->number;
    }
    pthread_mutex_unlock(&recording);
    return number;
}

bool capture_keep_promise(struct thrum_queue *queue, uint64_t number)
{
    struct thrum_graph *graph;
    bool kept;

    pthread_mutex_lock(&recording);
    graph = queue_is_valid(queue) ? queue_graph(queue) : NULL;
    kept = graph && graph->number == number;
    if (kept)
        graph->promised--;
    pthread_mutex_unlock(&recording);
    return kept;
}

/* ---- begin and end --------------------------------------------------------------------------------------------- */

/* Under `recording`: the queue's submissions go to the graph from now on. */
static thrum_status_t add_lane(struct thrum_graph *graph, struct thrum_queue *queue)
{
    if (!RESERVE(graph, lanes, 1))
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to capture a queue");
    graph->lanes[graph->nlanes] = (struct graph_lane){
        .queue = queue, .device = queue->device, .generation = queue->generation};
    queue->capture_lane = (int)graph->nlanes++;
    atomic_store_explicit(&queue->capture, graph, memory_order_release);
    return THRUM_OK;
}

static thrum_status_t refuse_captured(const struct thrum_queue *queue, const char *call)
{
    return thrum_fail(THRUM_ERR_INVALID_USAGE, "%s: queue %llu of %s is being captured", call,
                      (unsigned long long)queue->ops->queue_id(queue->impl),
                      queue->device->properties.name);
}

thrum_status_t thrum_queue_capture_begin(thrum_queue_t queue)
{
    static uint64_t last_number; /* under `recording` */
    struct thrum_graph *graph;
    thrum_status_t status = queue_check(queue);

    if (!status)
        status = capture_refuse(queue, "thrum_queue_capture_begin");
    if (status)
        return status;
    graph = handle_take(HANDLE_GRAPH);
    if (!graph)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "no memory for a graph handle");
    pthread_mutex_lock(&recording);
    graph->number = ++last_number;
    status = queue_graph(queue) ? refuse_captured(queue, "thrum_queue_capture_begin")
                                : add_lane(graph, queue);
    pthread_mutex_unlock(&recording);
    if (status)
        handle_give(HANDLE_GRAPH, graph);
    return status;
}

/* Under `recording`. */
static thrum_status_t join(struct thrum_queue *queue, const struct thrum_queue *origin)
{
    struct thrum_graph *graph = queue_graph(origin), *own = queue_graph(queue);

    if (!graph)
        return thrum_fail(THRUM_ERR_INVALID_USAGE, "origin: queue %llu of %s is not being captured",
                          (unsigned long long)origin->ops->queue_id(origin->impl),
                          origin->device->properties.name);
    if (own == graph)
        return THRUM_OK;
    return own ? spoil(own, refuse_captured(queue, "thrum_queue_capture_join"))
               : add_lane(graph, queue);
}

thrum_status_t thrum_queue_capture_join(thrum_queue_t queue, thrum_queue_t origin)
{
    thrum_status_t status = queue_check(origin);

    if (!status)
        status = queue_check(queue);
    if (status)
        return status;
    pthread_mutex_lock(&recording);
    status = join(queue, origin);
    pthread_mutex_unlock(&recording);
    return status;
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

/* Under `recording`. */
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

static void drop(struct thrum_graph *graph)
{
    free_contents(graph);
    handle_give(HANDLE_GRAPH, graph);
}

void capture_drop(struct thrum_queue *queue)
{
    struct thrum_graph *graph;

    pthread_mutex_lock(&recording);
    graph = queue_graph(queue);
    if (graph)
        release_queues(graph);
    pthread_mutex_unlock(&recording);
    if (graph)
        drop(graph);
}

/* Under `recording`: takes the queue's graph from it; what is wrong with the capture in *status_out. */
static thrum_status_t take_graph(struct thrum_queue *queue, struct thrum_graph **graph_out,
                                 thrum_status_t *status_out)
{
    struct thrum_graph *graph = queue_graph(queue);

    if (!graph || queue->capture_lane)
        return thrum_fail(THRUM_ERR_INVALID_USAGE,
                          graph ? "queue %llu of %s has joined the capture of another, which has "
                                  "to end it"
                                : "queue %llu of %s is not being captured",
                          (unsigned long long)queue->ops->queue_id(queue->impl),
                          queue->device->properties.name);
    if (graph->promised)
        (void)!spoil(graph, thrum_fail(THRUM_ERR_INVALID_USAGE,
                                       "the capture is ended inside a group, %zu of whose calls "
                                       "are for it",
                                       graph->promised));
    *status_out =
        graph->status ? thrum_set_last_error(graph->status, graph->message) : check_lanes(graph);
    release_queues(graph);
    *graph_out = graph;
    return THRUM_OK;
}

thrum_status_t thrum_queue_capture_end(thrum_queue_t queue, thrum_graph_t *graph_out)
{
    struct thrum_graph *graph = NULL;
    thrum_status_t status, outcome = THRUM_OK;

    if (!queue_is_valid(queue))
        return queue_check(queue);
    if (!graph_out)
        return thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "graph_out=NULL");
    pthread_mutex_lock(&recording);
    status = take_graph(queue, &graph, &outcome);
    pthread_mutex_unlock(&recording);
    if (status)
        return status;
    *graph_out = NULL;
    if (outcome) {
        drop(graph);
        return outcome;
    }
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

/* Which of the lanes' queues take all the items: one for each, or one for all. */
struct launch {
    const struct thrum_graph *graph;
    const thrum_queue_t *queues;
    bool by_lane;
    /* by_lane: the queues' last tickets before the launch, for who waits for them and hears of their errors */
    uint64_t *since;
    struct event_mark *
        *marks; /* by_lane: what this launch has recorded; NULL: not yet, or in a capture */
};

static thrum_queue_t queue_of(const struct launch *launch, const struct graph_item *item)
{
    return launch->queues[launch->by_lane ? item->lane : 0];
}

/* A queue that has stopped takes nothing more. */
static thrum_status_t check_running(struct thrum_queue *queue)
{
    uint64_t last = atomic_load_explicit(&queue->last_ticket, memory_order_acquire);
    thrum_status_t status = last ? queue->ops->poll(queue->impl, last) : THRUM_OK;

    if (status != THRUM_ERR_FAULT && status != THRUM_ERR_BAD_PACKET)
        return THRUM_OK;
    return thrum_fail(status, "queue %llu of %s has stopped",
                      (unsigned long long)queue->ops->queue_id(queue->impl),
                      queue->device->properties.name);
}

static thrum_status_t check_item(const struct launch *launch, const struct graph_item *item)
{
    struct thrum_queue *queue = queue_of(launch, item);

    switch (item->kind) {
    case ITEM_COMMANDS:
        return queue->flags & THRUM_QUEUE_DIRECT || queue_is_capturing(queue)
                   ? THRUM_OK
                   : queue->ops->check(queue->device->impl, &launch->graph->commands[item->first],
                                       item->n);
    case ITEM_EVENT_RECORD:
    case ITEM_EVENT_WAIT:
        return event_check(item->event);
    case ITEM_CALL:
        break;
    }
    return item->call->check ? item->call->check(item->argument, queue) : THRUM_OK;
}

/* What can be found wrong is found before anything is submitted. */
static thrum_status_t check_launch(const struct launch *launch)
{
    const struct thrum_graph *graph = launch->graph;
    thrum_status_t status = THRUM_OK;

    for (size_t i = 0; i < graph->nlanes && !status; i++) {
        struct thrum_queue *queue = launch->queues[launch->by_lane ? i : 0];

        status = check_lane(&graph->lanes[i], queue);
        if (!status && launch->by_lane)
            status = check_running(queue);
    }
    for (size_t i = 0; i < graph->nitems && !status; i++)
        status = check_item(launch, &graph->items[i]);
    return status;
}

/* Commands that check_item has accepted. */
static thrum_status_t submit_commands(struct thrum_queue *queue,
                                      const struct thrum_command *commands, size_t n)
{
    uint64_t ticket;
    thrum_status_t status;

    if (queue->flags & THRUM_QUEUE_DIRECT || queue_is_capturing(queue))
        return thrum_queue_submit(queue, commands, n, NULL);
    status = queue->ops->submit_checked(queue->impl, commands, n, &ticket);
    if (!status)
        queue_raise(&queue->last_ticket, ticket);
    return status;
}

/* A wait for what the same launch has recorded is for just that, whoever has recorded the event since. */
static thrum_status_t wait_for_item(const struct launch *launch, const struct graph_item *item,
                                    struct thrum_queue *queue)
{
    if (item->mark == NO_MARK)
        return thrum_event_wait(item->event, queue);
    if (!launch->by_lane)
        return THRUM_OK; /* it stands behind it */
    return launch->marks[item->mark] ? event_wait_mark(launch->marks[item->mark], queue)
                                     : thrum_event_wait(item->event, queue);
}

static thrum_status_t launch_item(const struct launch *launch, const struct graph_item *item)
{
    struct thrum_queue *queue = queue_of(launch, item);

    switch (item->kind) {
    case ITEM_COMMANDS:
        return submit_commands(queue, &launch->graph->commands[item->first], item->n);
    case ITEM_EVENT_RECORD:
        return launch->by_lane ? event_record(item->event, queue, launch->since[item->lane],
                                              &launch->marks[item->mark])
                               : thrum_event_record(item->event, queue);
    case ITEM_EVENT_WAIT:
        return wait_for_item(launch, item, queue);
    case ITEM_CALL:
        break;
    }
    return item->call->replay(item->argument, queue);
}

static thrum_status_t launch_items(const struct launch *launch)
{
    const struct thrum_graph *graph = launch->graph;
    thrum_status_t status = check_launch(launch);

    for (size_t i = 0; i < graph->nlanes && launch->by_lane && !status; i++)
        launch->since[i] =
            atomic_load_explicit(&launch->queues[i]->last_ticket, memory_order_acquire);
    for (size_t i = 0; i < graph->nitems && !status; i++)
        status = launch_item(launch, &graph->items[i]);
    return status;
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

static thrum_status_t launch_by_lane(struct thrum_graph *graph, const thrum_queue_t *queues)
{
    struct launch launch = {.graph = graph, .queues = queues, .by_lane = true};
    thrum_status_t status;

    launch.since = calloc(graph->nlanes, sizeof *launch.since);
    launch.marks = calloc(graph->nmarks + 1, sizeof(struct event_mark *));
    status = launch.since && launch.marks
                 ? launch_items(&launch)
                 : thrum_fail(THRUM_ERR_NO_MEMORY, "no memory to launch a graph");
    for (size_t i = 0; launch.marks && i < graph->nmarks; i++)
        event_mark_put(launch.marks[i]);
    free(launch.marks);
    free(launch.since);
    return status;
}

thrum_status_t thrum_graph_launch_lanes(thrum_graph_t graph, const thrum_queue_t *queues,
                                        int nqueues)
{
    thrum_status_t status = check_graph(graph);

    if (!status && (!queues || nqueues < 0 || (size_t)nqueues != graph->nlanes))
        status = thrum_fail(THRUM_ERR_INVALID_ARGUMENT, "%s=%d, the graph has %zu lanes",
                            queues ? "nqueues" : "queues", queues ? nqueues : 0, graph->nlanes);
    if (status)
        return status;
    return nqueues > 1 ? launch_by_lane(graph, queues) : thrum_graph_launch(graph, queues[0]);
}

thrum_status_t thrum_graph_launch(thrum_graph_t graph, thrum_queue_t queue)
{
    thrum_status_t status = check_graph(graph);

    return status ? status : launch_items(&(struct launch){.graph = graph, .queues = &queue});
}

void thrum_graph_destroy(thrum_graph_t graph)
{
    if (!handle_is_valid(HANDLE_GRAPH, graph))
        return;
    handle_retract(graph);
    free_contents(graph); /* submit has copied what is in flight */
    handle_give(HANDLE_GRAPH, graph);
}
