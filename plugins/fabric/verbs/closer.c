/*
 * A thread that closes queue pairs of which nobody wants anything any more. A driver may keep whoever destroys one until
 * its last packet is gone; where the network has just been taken away that lasts seconds (Soft-RoCE: as long as the
 * kernel asks for the neighbour's address), in which a connection has to go on by other lanes, and questions have to be
 * answered. Called by control.c and peer.c. The thread begins with the first queue pair, and ends with the endpoint.
 */
#include "verbs.h"

#include <stdlib.h>

static void destroy_all(struct ibv_qp *qp, struct ibv_cq *cq, struct ibv_ah *ah)
{
    if (qp)
        ibv_destroy_qp(qp);
    if (cq)
        ibv_destroy_cq(cq);
    if (ah)
        ibv_destroy_ah(ah);
}

static void *run(void *argument)
{
    struct verbs_closer *closer = argument;

    pthread_mutex_lock(&closer->lock);
    for (;;) {
        struct verbs_closing *first = closer->first;

        if (first) {
            closer->first = first->next;
            pthread_mutex_unlock(&closer->lock);
            destroy_all(first->qp, first->cq, first->ah);
            free(first);
            pthread_mutex_lock(&closer->lock);
        } else if (closer->stop) {
            break;
        } else {
            pthread_cond_wait(&closer->changed, &closer->lock);
        }
    }
    pthread_mutex_unlock(&closer->lock);
    return NULL;
}

/* False: whoever has it must do it. */
static bool hand_over(struct verbs_closer *closer, struct verbs_closing item)
{
    struct verbs_closing *copy = malloc(sizeof *copy);

    if (!copy)
        return false;
    *copy = item;
    pthread_mutex_lock(&closer->lock);
    if (!closer->has_thread)
        closer->has_thread = !pthread_create(&closer->thread, NULL, run, closer);
    if (closer->has_thread) {
        copy->next = closer->first;
        closer->first = copy;
        pthread_cond_signal(&closer->changed);
        copy = NULL;
    }
    pthread_mutex_unlock(&closer->lock);
    free(copy);
    return !copy;
}

void verbs_close_later(struct verbs_endpoint *endpoint, struct ibv_qp *qp, struct ibv_cq *cq,
                       struct ibv_ah *ah)
{
    struct ibv_qp_attr reset = {.qp_state = IBV_QPS_RESET};

    /* From here on it neither sends nor takes anything. A driver that cannot do so has to be waited for. */
    if (qp && ibv_modify_qp(qp, &reset, IBV_QP_STATE)) {
        ibv_destroy_qp(qp);
        qp = NULL;
    }
    if (!qp && !cq && !ah)
        return;
    if (!hand_over(&endpoint->closer, (struct verbs_closing){.qp = qp, .cq = cq, .ah = ah}))
        destroy_all(qp, cq, ah);
}

void verbs_closer_init(struct verbs_closer *closer)
{
    pthread_mutex_init(&closer->lock, NULL);
    pthread_cond_init(&closer->changed, NULL);
}

void verbs_closer_finish(struct verbs_closer *closer)
{
    pthread_mutex_lock(&closer->lock);
    closer->stop = true;
    pthread_cond_signal(&closer->changed);
    pthread_mutex_unlock(&closer->lock);
    if (closer->has_thread)
        pthread_join(closer->thread, NULL);
    pthread_cond_destroy(&closer->changed);
    pthread_mutex_destroy(&closer->lock);
}
