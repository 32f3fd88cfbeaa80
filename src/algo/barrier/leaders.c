/*
 * barrier, in lines over hosts: to the first rank of each host, between those, and back; one message between each two
 * hosts and direction.
 */
#include "algo/hosts.h"

void algo_barrier_leaders_build(struct plan *plan)
{
    struct hosts h;
    if (algo_build_alone(plan))
        return;
    h = hosts_of(&plan->params);
    plan_runs_ahead(plan);
    struct plan_operand nothing = algo_send_at(h.rank, 0);
    if (h.index > 0) {
        plan_put_inline(plan, 0, hosts_leader(&h, h.host), nothing, 0);
        plan_wait_inline(plan, 0, hosts_leader(&h, h.host), 0);
        return;
    }
    hosts_await_lines(plan, &h, 0);
    for (int k = 1; k < h.n; k++)
        plan_put_inline(plan, 0, hosts_leader(&h, hosts_at(&h, k)), nothing, 0);
    for (int k = 1; k < h.n; k++)
        plan_wait_inline(plan, 0, hosts_leader(&h, hosts_at(&h, -k)), 0);
    for (int i = 1; i < h.local; i++)
        plan_put_inline(plan, 0, hosts_local(&h, i), nothing, 0);
}

struct algo_cost algo_barrier_leaders_cost(const struct plan_params *params)
{
    const struct plan_layout *l = params->layout;
    double n = l->nhosts, local = l->most_local;
    return (struct algo_cost){.steps = 2,
                              .turns = 1, /* who leads nobody waits once */
                              .messages = 2 * (local - 1),
                              .net_steps = 1,
                              .net_messages = 2 * (n - 1) / hosts_leaders_share(params)};
}
