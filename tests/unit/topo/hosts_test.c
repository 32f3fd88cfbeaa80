/* Tests of topology files: what is found comes back through a file, ranks are placed, what is wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"
#include "plan/layout.h"
#include "topo/topo.h"
#include "topo/topo_internal.h"

static char root[] = "/tmp/hosts_test-XXXXXX";
static char file_path[64];

static int make_root(void **state)
{
    (void)state;
    if (!mkdtemp(root))
        return -1;
    snprintf(file_path, sizeof file_path, "%s/topology.json", root);
    return 0;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

static int remove_root(void **state)
{
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Below root, with the folders on the way. */
static void put(const char *name, const char *text, size_t bytes)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

static char *written(const struct topo *topo, bool json)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *file = open_memstream(&text, &bytes);

    assert_non_null(file);
    assert_int_equal(topo_write(topo, file, json), THRUM_OK);
    assert_int_equal(fclose(file), 0);
    return text;
}

static struct topo *read_text(const char *text)
{
    struct topo *topo = NULL;

    put_text("topology.json", text);
    assert_int_equal(topo_read(file_path, &topo), THRUM_OK);
    return topo;
}

static const char park[] =
    "{\"format\": \"thrum-topology\", \"version\": 1, \"hosts\": ["
    "{\"name\": \"a\", \"packages\": 1, \"cores\": 4, \"hardware_threads\": 8, \"usable_cores\": 8,"
    " \"numa_nodes\": [{\"index\": 0, \"cores\": 2, \"bytes\": 1073741824},"
    " {\"index\": 1, \"cores\": 2, \"bytes\": 0}],"
    " \"ports\": [{\"name\": \"eth0\", \"gbps\": 25.5, \"numa_node\": 0},"
    " {\"name\": \"mlx5_0/1\", \"kind\": \"RDMA\", \"interface\": \"eth1\", \"gbps\": 100},"
    " {\"name\": \"mlx5_1/1\", \"kind\": \"RDMA\", \"gbps\": 100},"
    " {\"name\": \"mlx5_2/1\", \"kind\": \"RDMA\", \"gbps\": 100, \"up\": false}],"
    " \"ranks\": [2, 0]},"
    "{\"name\": \"b\", \"ports\": [{\"name\": \"eth0\", \"gbps\": 10}, {\"name\": \"eth1\"}],"
    " \"ranks\": [1, 3, 4]}]}";

static void what_is_found_comes_back(void **state)
{
    struct topo *found = NULL, *again;
    char *first, *second;

    (void)state;
    assert_int_equal(topo_find(&found), THRUM_OK);
    assert_int_equal(found->nhosts, 1);
    assert_true(found->hosts[0].hardware_threads >= 1 && found->hosts[0].nnuma >= 1);
    first = written(found, true);
    again = read_text(first);
    second = written(again, true);
    assert_string_equal(first, second);
    topo_free(found);
    topo_free(again);
    free(first);
    free(second);
}

/* hwloc counts the cores near a node's memory: those of memory without cores of its own are another's, too. */
static void nodes_that_share_cores_come_back(void **state)
{
    setenv("HWLOC_SYNTHETIC", "package:1 [numa] [numa] core:2 pu:1", 1);
    what_is_found_comes_back(state);
    unsetenv("HWLOC_SYNTHETIC");
}

static void a_park_comes_back(void **state)
{
    struct topo *topo = read_text(park), *again;
    char *first = written(topo, true), *second, *text;

    (void)state;
    again = read_text(first);
    second = written(again, true);
    text = written(again, false);
    assert_string_equal(first, second);
    assert_non_null(strstr(text, "mlx5_0/1"));
    assert_non_null(strstr(text, "ranks 1,3-4"));
    assert_int_equal(again->hosts[0].ranks[0], 0);
    /* a: 2 RDMA ports of 100 Gb/s that are up; b: the fastest interface */
    assert_float_equal(topo_link_gbytes(again), 1.25, 1e-9);
    again->hosts[1].ports[0].gbps = 1000;
    assert_float_equal(topo_link_gbytes(again), 25, 1e-9);
    topo_free(topo);
    topo_free(again);
    free(first);
    free(second);
    free(text);
}

static void ranks_are_placed(void **state)
{
    struct topo *topo = read_text(park);
    const int expected[] = {0, 1, 0, 1, 1};
    int hosts[64];

    (void)state;
    assert_int_equal(topo_ranks(topo), 5);
    assert_int_equal(topo_place(topo, 5, hosts), THRUM_OK);
    assert_memory_equal(hosts, expected, sizeof expected);
    assert_int_equal(topo_place(topo, 6, hosts), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "places 5 ranks, not 6"));
    topo->hosts[0].nranks = topo->hosts[1].nranks = 0;
    assert_int_equal(topo_place(topo, 5, hosts), THRUM_OK);
    for (int r = 0; r < 5; r++)
        assert_int_equal(hosts[r], r >= 3);
    topo_free(topo);
}

static void ports_are_found_in_sysfs(void **state)
{
    struct topo_host host = {.nports = 0};
    char sysfs[64];

    (void)state;
    put_text("sys/class/net/lo/operstate", "unknown\n");
    put_text("sys/class/net/bonding_masters", "\n");
    put_text("sys/class/net/eth0/operstate", "up\n");
    put_text("sys/class/net/eth0/speed", "25000\n");
    put_text("sys/class/net/eth0/device/numa_node", "1\n");
    put_text("sys/class/net/eth1/operstate", "down\n");
    put_text("sys/class/net/eth1/speed", "-1\n");
    put_text("sys/class/net/eth1/device/vendor", "0x1af4\n");
    put_text("sys/class/net/team0/operstate", "up\n");
    put_text("sys/class/net/team0/speed", "50000\n");
    put_text("sys/class/net/team0/lower_eth0/device/numa_node", "1\n");
    put_text("sys/class/net/veth0/operstate", "up\n");
    put_text("sys/class/net/veth0/speed", "10000\n");
    put_text("sys/class/net/virbr0/operstate", "up\n");
    put_text("sys/class/net/virbr0/speed", "10000\n");
    put_text("sys/class/net/virbr0/lower_veth0/operstate", "up\n");
    put_text("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    put_text("sys/class/infiniband/mlx5_0/ports/1/rate", "100 Gb/sec (4X EDR)\n");
    put_text("sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0", "eth0\n");
    put_text("sys/class/infiniband/mlx5_0/ports/2/state", "1: DOWN\n");
    put_text("sys/class/infiniband/mlx5_0/device/numa_node", "0\n");
    snprintf(sysfs, sizeof sysfs, "%s/sys", root);
    assert_int_equal(topo_find_ports(sysfs, &host), THRUM_OK);
    assert_int_equal(host.nports, 7);
    assert_string_equal(host.ports[0].name, "eth0");
    assert_true(host.ports[0].up && !host.ports[0].rdma && host.ports[0].numa_node == 1);
    assert_float_equal(host.ports[0].gbps, 25, 1e-9);
    assert_string_equal(host.ports[1].name, "eth1");
    assert_true(!host.ports[1].up && host.ports[1].numa_node == -1 && host.ports[1].gbps <= 0);
    assert_string_equal(host.ports[2].name, "team0");
    assert_float_equal(host.ports[2].gbps, 50, 1e-9);
    assert_string_equal(host.ports[3].name, "veth0"); /* what its file says means nothing */
    assert_true(host.ports[3].up && host.ports[3].gbps <= 0);
    assert_string_equal(host.ports[4].name, "virbr0");
    assert_true(host.ports[4].up && host.ports[4].gbps <= 0);
    assert_string_equal(host.ports[5].name, "mlx5_0/1");
    assert_string_equal(host.ports[5].interface, "eth0");
    assert_true(host.ports[5].up && host.ports[5].rdma && host.ports[5].numa_node == 0);
    assert_float_equal(host.ports[5].gbps, 100, 1e-9);
    assert_true(!host.ports[6].up && host.ports[6].gbps <= 0);
    free(host.ports);
    host = (struct topo_host){.numa = &(struct topo_numa){.index = 0}, .nnuma = 1};
    assert_int_equal(topo_find_ports(sysfs, &host), THRUM_OK);
    assert_int_equal(host.ports[0].numa_node, -1); /* that one is not ours */
    assert_int_equal(host.ports[5].numa_node, 0);
    free(host.ports);
}

/* ---- what is wrong ---- */

#define IN_FILE(hosts) "{\"format\":\"thrum-topology\",\"version\":1,\"hosts\":" hosts "}"
#define IN_HOST(fields) IN_FILE("[{\"name\":\"a\"},{\"name\":\"b\"," fields "}]")

static const struct {
    const char *text, *message;
} wrong[] = {
    {"", "line 1"},
    {"{\"format\":", "line 1, column"},
    {"{}{}", "line 1"},
    {"[]", "the file is not an object"},
    {"{\"format\":\"thrum-tune\",\"version\":1,\"hosts\":[{\"name\":\"a\"}]}", "the file.format"},
    {"{\"format\":\"thrum-topology\",\"hosts\":[]}", "the file.version is missing"},
    {"{\"format\":\"thrum-topology\",\"version\":2,\"hosts\":[]}", "the file.version is 2"},
    {"{\"format\":\"a\",\"format\":\"b\"}", "duplicate"},
    {IN_FILE("{}"), "the file.hosts is not an array"},
    {IN_FILE("[]"), "the file.hosts has 0 entries"},
    {IN_FILE("[7]"), "hosts[0] is not an object"},
    {IN_FILE("[{}]"), "hosts[0].name is missing"},
    {IN_FILE("[{\"name\":\"\"}]"), "hosts[0].name is not a text"},
    {IN_FILE("[{\"name\":\"a\"},{\"name\":\"b\"},{\"name\":\"a\"}]"),
     "hosts[2].name: \"a\" is also that of hosts[0]"},
    {IN_HOST("\"colour\":1"), "hosts[1].colour is not known"},
    {IN_HOST("\"cores\":1.5"), "hosts[1].cores is not a whole number"},
    {IN_HOST("\"cores\":-1"), "hosts[1].cores is -1"},
    {IN_HOST("\"cores\":1e99"), "hosts[1].cores"},
    {IN_HOST("\"cores\":99999999999999999999"), "line 1"},
    {IN_HOST("\"cores\":4,\"hardware_threads\":2"), "hosts[1].cores is 4, more than its 2"},
    {IN_HOST("\"usable_cores\":4,\"hardware_threads\":2"), "hosts[1].usable_cores is 4"},
    {IN_HOST("\"numa_nodes\":[{\"index\":0,\"cores\":1},{\"index\":0,\"cores\":1}]"),
     "hosts[1].numa_nodes[1].index: node 0 is there twice"},
    {IN_HOST("\"cores\":2,\"numa_nodes\":[{\"index\":0,\"cores\":3}]"),
     "hosts[1].numa_nodes[0].cores is 3, more than the host's 2"},
    {IN_HOST("\"ports\":[{\"name\":\"x\",\"numa_node\":0}]"),
     "hosts[1].ports[0].numa_node: the host has no NUMA node 0"},
    {IN_HOST("\"ports\":[{\"name\":\"x\"},{\"name\":\"x\"}]"),
     "hosts[1].ports[1].name: \"x\" is there twice"},
    {IN_HOST("\"ports\":[{\"name\":\"x\",\"kind\":\"token ring\"}]"), "hosts[1].ports[0].kind"},
    {IN_HOST("\"ports\":[{\"name\":\"x\",\"interface\":\"y\"}]"),
     "hosts[1].ports[0].interface: only RDMA ports"},
    {IN_HOST("\"ports\":[{\"name\":\"x\",\"gbps\":-1}]"), "hosts[1].ports[0].gbps is -1"},
    {IN_HOST("\"ports\":[{\"name\":\"x\",\"up\":1}]"), "hosts[1].ports[0].up is neither"},
    {IN_HOST("\"ranks\":[0]"), "hosts[0].ranks is missing or empty"},
    {IN_HOST("\"ranks\":[\"0\"]"), "hosts[1].ranks[0] is not a rank"},
    {IN_HOST("\"ranks\":[-1]"), "hosts[1].ranks[0] is not a rank"},
    {IN_FILE("[{\"name\":\"a\",\"ranks\":[0]},{\"name\":\"b\",\"ranks\":[0]}]"),
     "hosts[1].ranks: rank 0 is also in hosts[0].ranks"},
    {IN_FILE("[{\"name\":\"a\",\"ranks\":[0]},{\"name\":\"b\",\"ranks\":[2]}]"),
     "hosts[1].ranks: rank 2, but all hosts have 2 ranks"},
};

static void what_is_wrong_is_named(void **state)
{
    struct topo *topo = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_text("topology.json", wrong[i].text);
        if (topo_read(file_path, &topo) != THRUM_ERR_INVALID_CONFIG ||
            !strstr(thrum_last_error(), file_path) || !strstr(thrum_last_error(), wrong[i].message))
            fail_msg("%s\ngives: %s\nnot: %s", wrong[i].text, thrum_last_error(), wrong[i].message);
        assert_null(topo);
    }
    assert_int_equal(topo_read("/nowhere/at/all", &topo), THRUM_ERR_INVALID_CONFIG);
    assert_non_null(strstr(thrum_last_error(), "/nowhere/at/all"));
    assert_int_equal(topo_read(root, &topo), THRUM_ERR_INVALID_CONFIG);
}

/* Whatever it is, it is read whole or refused with the file's name. */
static void damage_is_refused_or_harmless(void **state)
{
    char text[sizeof park];
    uint32_t seed = 1;
    int refused = 0;

    (void)state;
    for (int round = 0; round < 1500; round++) {
        size_t bytes = sizeof park - 1;
        struct topo *topo = NULL;
        thrum_status_t status;

        memcpy(text, park, sizeof park);
        for (int k = 0; k <= round % 3; k++) {
            seed = seed * 1664525 + 1013904223;
            text[(seed >> 8) % bytes] =
                round % 2 ? (char)(seed >> 3) : "0-9\"[]{},:e."[seed >> 28 & 7];
        }
        if (round % 5 == 0)
            bytes = (seed >> 4) % bytes;
        put("topology.json", text, bytes);
        status = topo_read(file_path, &topo);
        if (status) {
            assert_int_equal(status, THRUM_ERR_INVALID_CONFIG);
            assert_non_null(strstr(thrum_last_error(), file_path));
            refused++;
        } else {
            free(written(topo, true));
        }
        topo_free(topo);
    }
    assert_in_range(refused, 750, 1499);
}

static void a_layout_orders_hosts_by_first_ranks(void **state)
{
    const int hosts[] = {7, 3, 7, 9, 3, 3};
    const int host[] = {0, 1, 0, 2, 1, 1}, index[] = {0, 0, 1, 0, 1, 2},
              ranks[] = {0, 2, 1, 4, 5, 3};
    struct plan_layout *l = NULL;

    (void)state;
    assert_int_equal(plan_layout_create(hosts, 6, &l), THRUM_OK);
    assert_int_equal(l->nhosts, 3);
    assert_memory_equal(l->host, host, sizeof host);
    assert_memory_equal(l->index, index, sizeof index);
    assert_memory_equal(l->ranks, ranks, sizeof ranks);
    assert_int_equal(l->least_local, 1);
    assert_int_equal(l->most_local, 3);
    assert_int_equal(plan_layout_rank(l, 1, 2), 5);
    /* Around the ring all but 4 - 5 leave their host: both of host 0, two of host 1, one of host 2. */
    assert_float_equal(l->crossing[PLAN_TALKS_TO_NEXT].host, 2, 1e-9);
    assert_float_equal(l->crossing[PLAN_TALKS_TO_ALL].rank, 1, 1e-9);
    assert_false(l->in_order);
    plan_layout_destroy(l);
}

/* Of two bits one says which rank of a host, the other which host: so half of the exchanges in pairs cross. */
static void pairs_cross_by_half(void **state)
{
    const int in_order[] = {0, 0, 1, 1}, in_turn[] = {0, 1, 0, 1}, five[] = {0, 0, 0, 1, 1};
    const int *const cases[] = {in_order, in_turn};
    struct plan_layout *l = NULL;

    (void)state;
    for (int i = 0; i < 2; i++) {
        const struct plan_crossing *c;

        assert_int_equal(plan_layout_create(cases[i], 4, &l), THRUM_OK);
        c = &l->crossing[PLAN_TALKS_IN_PAIRS];
        assert_float_equal(c->steps, 0.5, 1e-9);
        assert_float_equal(c->rank, 0.5, 1e-9);
        assert_float_equal(c->host, 1, 1e-9); /* both ranks of a host, in one of two */
        assert_int_equal(l->in_order, i == 0);
        plan_layout_destroy(l);
    }
    /* 0 hands over to 1; 1 and 2, 3 and 4 pair up, then 1 and 3, 2 and 4; and 0 gets back */
    assert_int_equal(plan_layout_create(five, 5, &l), THRUM_OK);
    assert_float_equal(l->crossing[PLAN_TALKS_IN_PAIRS].steps, 0.25, 1e-9);
    plan_layout_destroy(l);
}

/* Four hosts of four: what is near stays inside, and what goes far is most of it where messages grow with the distance. */
static void far_messages_cross(void **state)
{
    const struct plan_crossing *c;
    struct plan_layout *l = NULL;
    int hosts[16];

    (void)state;
    for (int r = 0; r < 16; r++)
        hosts[r] = r / 4;
    assert_int_equal(plan_layout_create(hosts, 16, &l), THRUM_OK);
    c = &l->crossing
             [PLAN_TALKS_TO_NEXT]; /* four of 16 times; who sends to another host hears from its own */
    assert_float_equal(c->steps, 0.25, 1e-9);
    assert_float_equal(c->messages, 0.5, 1e-9);
    assert_float_equal(c->rank, 1, 1e-9);
    assert_float_equal(c->host, 1, 1e-9);
    c = &l->crossing[PLAN_TALKS_IN_PAIRS]; /* over 4 and 8 of 1, 2, 4, 8 */
    assert_float_equal(c->rank, 0.5, 1e-9);
    assert_float_equal(c->far_rank, 12.0F / 15, 1e-6);
    assert_float_equal(c->far_host, 4 * 12.0F / 15, 1e-6);
    c = &l->crossing[PLAN_TALKS_IN_TREE];
    assert_float_equal(c->steps, 0.5, 1e-9);
    assert_float_equal(c->far_rank, 12.0F / 15, 1e-6);
    assert_float_equal(c->far_host, 12.0F / 15, 1e-6); /* rank 0 alone */
    c = &l->crossing[PLAN_TALKS_DOUBLING]; /* over 1 and 2, too, but for each other's ranks */
    assert_float_equal(c->steps, 0.75, 1e-9);
    assert_float_equal(c->messages, 1, 1e-9);
    plan_layout_destroy(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_found_comes_back),
        cmocka_unit_test(nodes_that_share_cores_come_back),
        cmocka_unit_test(a_park_comes_back),
        cmocka_unit_test(ranks_are_placed),
        cmocka_unit_test(ports_are_found_in_sysfs),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(damage_is_refused_or_harmless),
        cmocka_unit_test(a_layout_orders_hosts_by_first_ranks),
        cmocka_unit_test(pairs_cross_by_half),
        cmocka_unit_test(far_messages_cross),
    };
    return cmocka_run_group_tests_name("hosts", tests, make_root, remove_root);
}
