/*
 * Objects of the program's that graphs keep: what a captured call uses, or a notice that no graph has the call any more. An
 * object is counted; the last reference has its destructor called, by the thread of host functions, since the caller may hold
 * locks that the destructor wants. A graph shares its references with its clones and executable forms, and gives them up
 * when the last of these has gone and its launches have ended (cudart_graph.c). Called by programs.
 */
#include "cudart.h"

#include <limits.h>
#include <stdlib.h>

struct CUuserObject_st {
    cudaHostFn_t destroy;
    void *argument;
    unsigned owned; /* references of the program's */
    unsigned kept; /* of graphs */
};

static struct handle_set objects = HANDLE_SET_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of counts, and of what graphs keep */

static cudaError_t find(cudaUserObject_t object, unsigned count)
{
    if (!handle_set_find(&objects, object))
        return cudart_fail(cudaErrorInvalidValue, "object=%p is not a live user object",
                           (void *)object);
    return count && count <= INT_MAX
               ? cudaSuccess
               : cudart_fail(cudaErrorInvalidValue, "count=%u is not between 1 and %d", count,
                             INT_MAX);
}

/* Under the lock: whether nobody refers to it; then it is the caller's to end. */
static bool is_over(struct CUuserObject_st *object)
{
    return !object->owned && !object->kept && handle_set_remove(&objects, object);
}

static void end(struct CUuserObject_st *object)
{
    if (!cudart_host_call(object->destroy, object->argument))
        object->destroy(object->argument);
    free(object);
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t *out, void *argument, cudaHostFn_t destroy,
                                 unsigned count, unsigned flags)
{
    struct CUuserObject_st *object;

    if (!out || !destroy || !count || count > INT_MAX || flags != cudaUserObjectNoDestructorSync)
        return cudart_result(cudart_fail(cudaErrorInvalidValue,
                                         "object=%p, destroy=%s, count=%u, flags=%#x, which has to "
                                         "be cudaUserObjectNoDestructorSync",
                                         (void *)out, destroy ? "a function" : "NULL", count,
                                         flags));
    object = calloc(1, sizeof *object);
    if (object)
        *object = (struct CUuserObject_st){destroy, argument, count, 0};
    if (!object || !handle_set_add(&objects, object, object)) {
        free(object);
        return cudart_result(cudart_fail(cudaErrorMemoryAllocation, "no host memory"));
    }
    *out = object;
    return cudaSuccess;
}

static cudaError_t no_room(unsigned count)
{
    return cudart_fail(cudaErrorInvalidValue, "count=%u: more than %d references", count, INT_MAX);
}

static cudaError_t too_many(unsigned count, unsigned there, const char *whose)
{
    return cudart_fail(cudaErrorInvalidValue, "count=%u, but %s has %u references", count, whose,
                       there);
}

cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned count)
{
    cudaError_t error;

    pthread_mutex_lock(&lock);
    error = find(object, count);
    if (!error && count > INT_MAX - object->owned)
        error = no_room(count);
    if (!error)
        object->owned += count;
    pthread_mutex_unlock(&lock);
    return cudart_result(error);
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count)
{
    cudaError_t error;
    bool over = false;

    pthread_mutex_lock(&lock);
    error = find(object, count);
    if (!error && count > object->owned)
        error = too_many(count, object->owned, "the program");
    if (!error) {
        object->owned -= count;
        over = is_over(object);
    }
    pthread_mutex_unlock(&lock);
    if (over)
        end(object);
    return cudart_result(error);
}

/* ---- graphs; what they keep is under the lock ---- */

static struct cudart_kept *find_kept(struct cudart_graph *graph, const void *object)
{
    for (size_t i = 0; i < graph->nkept; i++)
        if (graph->kept[i].object == object)
            return &graph->kept[i];
    return NULL;
}

static struct cudart_kept *need_kept(struct cudart_graph *graph, struct CUuserObject_st *object)
{
    struct cudart_kept *kept = find_kept(graph, object);

    if (kept)
        return kept;
    if (!cudart_grow(&graph->kept, graph->nkept, &graph->kept_capacity, sizeof *graph->kept))
        return NULL;
    graph->kept[graph->nkept] = (struct cudart_kept){.object = object};
    return &graph->kept[graph->nkept++];
}

static cudaError_t keep(struct cudart_graph *graph, struct CUuserObject_st *object, unsigned count,
                        bool moves)
{
    struct cudart_kept *kept;

    if (moves && count > object->owned)
        return too_many(count, object->owned, "the program");
    if (count > INT_MAX - object->kept)
        return no_room(count);
    kept = need_kept(graph, object);
    if (!kept)
        return cudart_fail(cudaErrorMemoryAllocation, "no host memory");
    kept->count += count;
    object->kept += count;
    if (moves)
        object->owned -= count;
    return cudaSuccess;
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t handle, cudaUserObject_t object, unsigned count,
                                      unsigned flags)
{
    struct cudart_graph *graph;
    cudaError_t error = cudart_graph_find(handle, &graph);

    if (!error && flags & ~(unsigned)cudaGraphUserObjectMove)
        error = cudart_fail(cudaErrorInvalidValue, "flags=%#x", flags);
    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&lock);
    error = find(object, count);
    if (!error)
        error = keep(graph, object, count, flags);
    pthread_mutex_unlock(&lock);
    return cudart_result(error);
}

cudaError_t cudaGraphReleaseUserObject(cudaGraph_t handle, cudaUserObject_t object, unsigned count)
{
    struct cudart_graph *graph;
    struct cudart_kept *kept;
    cudaError_t error = cudart_graph_find(handle, &graph);
    bool over = false;

    if (error)
        return cudart_result(error);
    pthread_mutex_lock(&lock);
    error = find(object, count);
    kept = error ? NULL : find_kept(graph, object);
    if (!error && count > (kept ? kept->count : 0))
        error = too_many(count, kept ? kept->count : 0, "the graph");
    if (!error) {
        kept->count -= count;
        if (atomic_load(&graph->references) > 1) { /* a clone, or an executable form */
            kept->taken_back += count;
        } else {
            object->kept -= count;
            over = is_over(object);
        }
    }
    if (kept && !kept->count && !kept->taken_back)
        *kept = graph->kept[--graph->nkept];
    pthread_mutex_unlock(&lock);
    if (over)
        end(object);
    return cudart_result(error);
}

bool cudart_objects_any(const struct cudart_graph *graph)
{
    bool any;

    pthread_mutex_lock(&lock);
    any = graph->nkept;
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < graph->nchildren && !any; i++)
        any = cudart_objects_any(graph->children[i]);
    return any;
}

void cudart_objects_drop(struct cudart_graph *graph)
{
    for (size_t i = 0; i < graph->nkept; i++) {
        const struct cudart_kept *kept = &graph->kept[i];
        bool over;

        pthread_mutex_lock(&lock);
        kept->object->kept -= kept->count + kept->taken_back;
        over = is_over(kept->object);
        pthread_mutex_unlock(&lock);
        if (over)
            end(kept->object);
    }
    free(graph->kept);
}
