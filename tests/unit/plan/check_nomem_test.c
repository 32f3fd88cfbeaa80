/* plan_check, simulate and appending with every allocation made to fail in turn: NO_MEMORY, nothing leaked, nothing broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/base.h"
#include "plan/simulate.h"
#include "samples.h"

static long left = -1; /* allocations until one fails; negative: none does */
static long live; /* allocated and not freed */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *at, size_t bytes);
void __real_free(void *at);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes);
void __wrap_free(void *at);

static int fails(void)
{
    return left >= 0 && left-- == 0;
}

static void *counted(void *at)
{
    live += at != NULL;
    return at;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : counted(__real_malloc(bytes));
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : counted(__real_calloc(n, bytes));
}

void *__wrap_realloc(void *at, size_t bytes)
{
    if (fails())
        return NULL;
    live -= at != NULL;
    return counted(__real_realloc(at, bytes));
}

void __wrap_free(void *at)
{
    live -= at != NULL;
    __real_free(at);
}

static void check_with(void (*make)(struct sample *sample, int n), int n)
{
    thrum_status_t status = THRUM_ERR_NO_MEMORY;
    struct sample s;
    long before, failures;

    make(&s, n);
    before = live;
    for (failures = 0; status == THRUM_ERR_NO_MEMORY; failures++) {
        left = failures;
        status = plan_check(s.plans, s.n, 2, NULL);
        left = -1;
        assert_int_equal(live, before);
    }
    assert_int_equal(status, THRUM_OK);
    assert_true(failures > 10);
    sample_fini(&s);
}

static void checking(void **state)
{
    (void)state;
    check_with(sample_inline, 3);
    check_with(sample_direct, 3);
    check_with(sample_ring, 4);
}

static thrum_status_t simulate(const struct sample *s, const int *host)
{
    const struct simulate_machine machine = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    struct simulate_result result;
    struct simulation *simulation;
    thrum_status_t status = simulate_create(&machine, s->n, host, 1000, &simulation);

    if (status)
        return status;
    for (int r = 0; r < s->n && !status; r++)
        status = simulate_add(simulation, &s->plans[r]);
    if (!status)
        status = simulate_run(simulation, NULL, NULL, &result);
    simulate_destroy(simulation);
    return status;
}

static void simulating(void **state)
{
    const int host[SAMPLE_MAX_RANKS] = {0, 1, 2, 3};

    (void)state;
    for (int between_hosts = 0; between_hosts < 2; between_hosts++) {
        thrum_status_t status = THRUM_ERR_NO_MEMORY;
        struct sample s;
        long before, failures;

        sample_ring(&s, 4);
        before = live;
        for (failures = 0; status == THRUM_ERR_NO_MEMORY; failures++) {
            left = failures;
            status = simulate(&s, between_hosts ? host : NULL);
            left = -1;
            assert_int_equal(live, before);
        }
        assert_int_equal(status, THRUM_OK);
        assert_true(failures > 10);
        sample_fini(&s);
    }
}

static void appending(void **state)
{
    struct plan_params params = {
        .collective = COLL_ALLREDUCE, .nranks = 2, .dtype = THRUM_INT8, .lanes = 1};
    long before = live;

    (void)state;
    for (long failure = 0; failure < 8; failure++) {
        struct plan plan;

        plan_init(&plan, &params);
        left = failure;
        for (int i = 0; i < 100; i++)
            plan_copy(&plan, 0, plan_at(PLAN_RECV, 0, 0), plan_at(PLAN_SEND, 0, 0), 1);
        left = -1;
        assert_int_equal(plan.status, THRUM_ERR_NO_MEMORY);
        assert_true(plan.nops < 100);
        plan_fini(&plan);
        assert_int_equal(live, before);
    }
}

int main(void)
{
    /* a thread's first error makes room for its text, which stays */
    (void)thrum_set_last_error(THRUM_OK, "none yet");

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checking),
        cmocka_unit_test(simulating),
        cmocka_unit_test(appending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
