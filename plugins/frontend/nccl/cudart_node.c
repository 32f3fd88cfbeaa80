/*
 * What is in graphs: nodes, what they come behind, a picture. A node's handle is a number, so that it can be given while the
 * graph is still being captured, and a wild one is found. Called by programs.
 */
#include "cudart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists ---- */

/* Where a caller wants handles, and how many there is room for. */
struct list {
    cudaGraphNode_t *nodes, *others; /* NULL: not wanted */
    cudaGraphEdgeData *edges;
    size_t room, found;
};

static void add(struct list *list, cudaGraphNode_t node, cudaGraphNode_t other)
{
    size_t i = list->found++;

    if (i >= list->room)
        return;
    if (list->nodes)
        list->nodes[i] = node;
    if (list->others)
        list->others[i] = other;
    if (list->edges)
        memset(&list->edges[i], 0, sizeof list->edges[i]);
}

/* As CUDA has it: without arrays *n is how many there are, else how many were written; what is left of the room is NULL. */
static void finish(struct list *list, size_t *n)
{
    size_t found = list->found;
    bool counts = !list->nodes && !list->others;

    while (list->found < list->room)
        add(list, NULL, NULL);
    if (counts || found < *n)
        *n = found;
}

static struct list list_of(cudaGraphNode_t *nodes, cudaGraphNode_t *others,
                           cudaGraphEdgeData *edges, const size_t *n)
{
    return (struct list){nodes, others, edges, nodes || others ? *n : 0, 0};
}

static cudaError_t find(cudaGraph_t handle, const size_t *n, struct cudart_graph **out)
{
    return n ? cudart_graph_find_ended(handle, out) : cudart_fail(cudaErrorInvalidValue, "n=NULL");
}

static cudaError_t list_nodes(cudaGraph_t handle, bool roots_only, cudaGraphNode_t *nodes,
                              size_t *n)
{
    struct cudart_graph *graph;
    struct list list;
    cudaError_t error = find(handle, n, &graph);

    if (error)
        return error;
    list = list_of(nodes, NULL, NULL, n);
    for (size_t i = 0; i < graph->nnodes; i++)
        if (!roots_only || !graph->nodes[i].ndependencies)
            add(&list, cudart_node_handle(graph, i), NULL);
    finish(&list, n);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
    return cudart_result(list_nodes(graph, false, nodes, n));
}

cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
    return cudart_result(list_nodes(graph, true, nodes, n));
}

/* ---- what comes behind what ---- */

static size_t dependency(const struct cudart_graph *graph, size_t i, size_t d)
{
    return graph->dependencies[graph->nodes[i].first_dependency + d];
}

cudaError_t cudaGraphGetEdges_v2(cudaGraph_t handle, cudaGraphNode_t *from, cudaGraphNode_t *to,
                                 cudaGraphEdgeData *edges, size_t *n)
{
    struct cudart_graph *graph;
    struct list list;
    cudaError_t error = find(handle, n, &graph);

    if (!error && !from != !to)
        error = cudart_fail(cudaErrorInvalidValue, "from=%p, to=%p: one of them is NULL",
                            (void *)from, (void *)to);
    if (error)
        return cudart_result(error);
    list = list_of(from, to, edges, n);
    for (size_t i = 0; i < graph->nnodes; i++)
        for (size_t d = 0; d < graph->nodes[i].ndependencies; d++)
            add(&list, cudart_node_handle(graph, dependency(graph, i, d)),
                cudart_node_handle(graph, i));
    finish(&list, n);
    return cudaSuccess;
}

cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t *from, cudaGraphNode_t *to,
                              size_t *n)
{
    return cudaGraphGetEdges_v2(graph, from, to, NULL, n);
}

static cudaError_t find_node(cudaGraphNode_t handle, struct cudart_graph **out, size_t *i)
{
    *out = cudart_node_find(handle, i);
    return *out ? cudaSuccess
                : cudart_fail(cudaErrorInvalidValue,
                              "node=%p is of no graph that is there, or of one that is still "
                              "being captured",
                              (void *)handle);
}

/* The nodes behind which this one comes, or those that come behind it. */
static cudaError_t list_neighbours(cudaGraphNode_t node, bool before, cudaGraphNode_t *nodes,
                                   cudaGraphEdgeData *edges, size_t *n)
{
    struct cudart_graph *graph;
    struct list list;
    size_t at;
    cudaError_t error =
        n ? find_node(node, &graph, &at) : cudart_fail(cudaErrorInvalidValue, "n=NULL");

    if (error)
        return error;
    list = list_of(nodes, NULL, edges, n);
    for (size_t i = before ? at : at + 1; i < (before ? at + 1 : graph->nnodes); i++)
        for (size_t d = 0; d < graph->nodes[i].ndependencies; d++)
            if (before || dependency(graph, i, d) == at)
                add(&list, cudart_node_handle(graph, before ? dependency(graph, i, d) : i), NULL);
    finish(&list, n);
    cudart_graph_put(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphNodeGetDependencies_v2(cudaGraphNode_t node, cudaGraphNode_t *nodes,
                                            cudaGraphEdgeData *edges, size_t *n)
{
    return cudart_result(list_neighbours(node, true, nodes, edges, n));
}

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t *nodes, size_t *n)
{
    return cudaGraphNodeGetDependencies_v2(node, nodes, NULL, n);
}

cudaError_t cudaGraphNodeGetDependentNodes_v2(cudaGraphNode_t node, cudaGraphNode_t *nodes,
                                              cudaGraphEdgeData *edges, size_t *n)
{
    return cudart_result(list_neighbours(node, false, nodes, edges, n));
}

cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t *nodes, size_t *n)
{
    return cudaGraphNodeGetDependentNodes_v2(node, nodes, NULL, n);
}

/* ---- types, and a picture ---- */

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t handle, enum cudaGraphNodeType *type)
{
    struct cudart_graph *graph;
    size_t i;
    cudaError_t error =
        type ? find_node(handle, &graph, &i) : cudart_fail(cudaErrorInvalidValue, "type=NULL");

    if (error)
        return cudart_result(error);
    *type = graph->nodes[i].type;
    cudart_graph_put(graph);
    return cudaSuccess;
}

static const char *type_name(enum cudaGraphNodeType type)
{
    switch (type) {
    case cudaGraphNodeTypeKernel:
        return "collective";
    case cudaGraphNodeTypeMemcpy:
        return "copy";
    case cudaGraphNodeTypeMemset:
        return "fill";
    case cudaGraphNodeTypeHost:
        return "host function";
    case cudaGraphNodeTypeGraph:
        return "graph";
    case cudaGraphNodeTypeWaitEvent:
        return "event wait";
    case cudaGraphNodeTypeEventRecord:
        return "event record";
    case cudaGraphNodeTypeMemAlloc:
        return "allocation";
    case cudaGraphNodeTypeMemFree:
        return "free";
    case cudaGraphNodeTypeEmpty:
        break;
    }
    return "empty";
}

static void write_dot(const struct cudart_graph *graph, FILE *file)
{
    fprintf(file, "digraph thrum {\n");
    for (size_t i = 0; i < graph->nnodes; i++) {
        const struct cudart_node *node = &graph->nodes[i];

        fprintf(file, "  n%zu [label=\"%zu: %s\\nstream %u\"];\n", i, i, type_name(node->type),
                node->lane);
        for (size_t d = 0; d < node->ndependencies; d++)
            fprintf(file, "  n%zu -> n%zu;\n", graph->dependencies[node->first_dependency + d], i);
    }
    fprintf(file, "}\n");
}

cudaError_t cudaGraphDebugDotPrint(cudaGraph_t handle, const char *path, unsigned flags)
{
    struct cudart_graph *graph;
    cudaError_t error = cudart_graph_find_ended(handle, &graph);
    FILE *file = error || !path ? NULL : fopen(path, "we");
    bool failed;

    (void)flags; /* details of kernels and memory operations */
    if (error)
        return cudart_result(error);
    if (!file)
        return cudart_result(cudart_fail(path ? cudaErrorOperatingSystem : cudaErrorInvalidValue,
                                         "path=%s cannot be written", path ? path : "NULL"));
    write_dot(graph, file);
    failed = ferror(file);
    return fclose(file) || failed ? cudart_result(cudart_fail(cudaErrorOperatingSystem,
                                                              "path=%s: not all of it could "
                                                              "be written",
                                                              path))
                                  : cudaSuccess;
}
