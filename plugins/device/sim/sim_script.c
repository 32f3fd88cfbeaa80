/*
 * The seeded fault script of sim: parses KIND@WHEN[:ARGUMENT] lines, fires them at commands or times. Called at open,
 * by thrum_ras_inject, by the executor while a script is armed, and by the engine thread for times.
 */
#include "sim_internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

#define THROTTLE_MS 50 /* unless the argument says otherwise */
#define THROTTLE_FACTOR 3 /* a throttled engine takes as much longer again */

/* ---- parsing --------------------------------------------------------------------------------------------------- */

/* splitmix64, public domain by S. Vigna: any seed is good, and it is the same everywhere. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool parse_u64(const char **text, uint64_t *out)
{
    char *end;

    if (!isdigit((unsigned char)**text))
        return false;
    errno = 0;
    *out = strtoull(*text, &end, 0);
    *text = end;
    return !errno;
}

static bool parse_kind(const char *text, size_t length, struct sim_fault *fault)
{
    static const struct {
        const char *name;
        enum sim_fault_action action;
    } resets[] = {{"reset-soft", SIM_ACTION_RESET_SOFT}, {"reset-hard", SIM_ACTION_RESET_HARD}};

    fault->action = SIM_ACTION_EVENT;
    for (int i = 0; i < 2; i++)
        if (strlen(resets[i].name) == length && !memcmp(resets[i].name, text, length)) {
            fault->kind = THRUM_RAS_RESET;
            fault->action = resets[i].action;
            return true;
        }
    for (int i = 0; i < THRUM_RAS_KIND_COUNT; i++) {
        const char *name = thrum_ras_kind_name((enum thrum_ras_kind)i);
        if (i != THRUM_RAS_RESET && strlen(name) == length && !memcmp(name, text, length)) {
            fault->kind = (enum thrum_ras_kind)i;
            return true;
        }
    }
    return false;
}

/* c123, c100-200, t50ms. Numbers are relative; the caller makes them absolute. */
static bool parse_when(const char **text, struct sim_fault *fault, uint64_t *random)
{
    uint64_t high;

    fault->by_time = **text == 't';
    if (**text != 'c' && **text != 't')
        return false;
    (*text)++;
    if (!parse_u64(text, &fault->at))
        return false;
    if (fault->by_time) {
        if (strncmp(*text, "ms", 2) || fault->at > 1000000000)
            return false;
        *text += 2;
        fault->at *= 1000000;
        return true;
    }
    if (**text == '-') {
        (*text)++;
        if (!parse_u64(text, &high) || high < fault->at || high - fault->at == UINT64_MAX)
            return false;
        fault->at += next_random(random) % (high - fault->at + 1);
    }
    return fault->at > 0; /* the first command is 1 */
}

static bool parse_fault(const char *text, size_t length, struct sim_fault *fault, uint64_t *random)
{
    char copy[128];
    const char *at, *sign;

    if (length >= sizeof copy)
        return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    sign = strchr(copy, '@');
    if (!sign || !parse_kind(copy, (size_t)(sign - copy), fault))
        return false;
    at = sign + 1;
    if (!parse_when(&at, fault, random))
        return false;
    fault->has_argument = *at == ':';
    if (fault->has_argument) {
        at++;
        if (!parse_u64(&at, &fault->argument))
            return false;
    }
    return !*at;
}

static size_t trim(const char **text, size_t length)
{
    while (length && isspace((unsigned char)**text))
        (*text)++, length--;
    while (length && isspace((unsigned char)(*text)[length - 1]))
        length--;
    return length;
}

/* "3/page-fault@c1": only for device 3. Skips the prefix; false if it is for another device. */
static bool is_for_us(const struct sim_device *device, const char **text, size_t *length)
{
    const char *slash = memchr(*text, '/', *length);
    const char *at = *text;
    uint64_t index;

    if (!slash || !parse_u64(&at, &index) || at != slash)
        return true;
    *length -= (size_t)(slash + 1 - *text);
    *text = slash + 1;
    return index == (uint64_t)device->index;
}

static thrum_status_t parse_script(const struct sim_device *device, const char *script,
                                   uint64_t seed, bool prefixes, struct sim_fault **faults_out,
                                   size_t *n_out)
{
    uint64_t random = seed;
    size_t n = 0, parts = 1;
    struct sim_fault *faults;

    for (const char *c = script; *c; c++)
        parts += *c == ';';
    faults = calloc(parts, sizeof *faults);
    if (!faults)
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for a fault script",
                          device->index);
    while (*script) {
        size_t whole = strcspn(script, ";"), length;
        const char *part = script;
        bool ours = true;

        length = trim(&part, whole);
        if (prefixes && length)
            ours = is_for_us(device, &part, &length);
        if (length) {
            if (!parse_fault(part, length, &faults[n], &random)) {
                free(faults);
                return thrum_fail(THRUM_ERR_INVALID_ARGUMENT,
                                  "fault script: \"%.*s\" is not KIND@WHEN[:ARGUMENT]",
                                  (int)min_u64(length, 80), part);
            }
            n += ours;
        }
        script += whole + (script[whole] == ';');
    }
    *faults_out = faults;
    *n_out = n;
    return THRUM_OK;
}

static thrum_status_t arm(struct sim_device *device, struct sim_fault *faults, size_t n)
{
    struct sim_ras *ras = &device->ras;
    struct sim_fault *all;
    uint64_t now = (uint64_t)now_ns();

    pthread_mutex_lock(&ras->lock);
    all = realloc(ras->script, (ras->nscript + n) * sizeof *all);
    if (!all) {
        pthread_mutex_unlock(&ras->lock);
        return thrum_fail(THRUM_ERR_NO_MEMORY, "sim%d: no memory for a fault script",
                          device->index);
    }
    ras->script = all;
    for (size_t i = 0; i < n; i++) {
        faults[i].at += faults[i].by_time
                            ? now
                            : atomic_load_explicit(&ras->command_number, memory_order_relaxed);
        all[ras->nscript++] = faults[i];
    }
    atomic_store_explicit(&ras->armed, 1, memory_order_release);
    pthread_mutex_unlock(&ras->lock);
    return THRUM_OK;
}

thrum_status_t sim_inject(void *handle, const char *script, uint64_t seed)
{
    struct sim_device *device = handle;
    struct sim_fault *faults;
    size_t n;
    thrum_status_t status = parse_script(device, script, seed, false, &faults, &n);

    if (status)
        return status;
    if (n) {
        status = arm(device, faults, n);
        sim_engine_kick(device); /* it has a new time to wake at */
    }
    free(faults);
    return status;
}

thrum_status_t sim_script_load(struct sim_device *device)
{
    struct sim_fault *faults;
    size_t n;
    thrum_status_t status =
        parse_script(device, thrum_config_string(CFG_SIM_FAULTS),
                     (uint64_t)thrum_config_int(CFG_SIM_SEED), true, &faults, &n);

    if (status == THRUM_ERR_INVALID_ARGUMENT)
        return thrum_fail(THRUM_ERR_INVALID_CONFIG, "THRUM_SIM_FAULTS=\"%.200s\" is malformed: %s",
                          thrum_config_string(CFG_SIM_FAULTS),
                          "want [device/]KIND@WHEN[:ARGUMENT], separated by ';'");
    if (status)
        return status;
    if (n)
        status = arm(device, faults, n);
    free(faults);
    return status;
}

/* ---- firing ---------------------------------------------------------------------------------------------------- */

/* Page faults, bad packets and uncorrected ECC errors need a command that meets them. */
static bool needs_command(const struct sim_fault *fault)
{
    return fault->kind == THRUM_RAS_PAGE_FAULT || fault->kind == THRUM_RAS_BAD_PACKET ||
           fault->kind == THRUM_RAS_ECC_UNCORRECTED;
}

static void fire(struct sim_device *device, const struct sim_fault *fault,
                 const struct sim_queue *queue)
{
    struct thrum_ras_event event = {
        .kind = fault->kind, .queue_id = queue ? queue->id : 0, .address = fault->argument};

    if (fault->action != SIM_ACTION_EVENT) {
        atomic_store_explicit(&device->reset_wanted,
                              1 + (uint32_t)(fault->action == SIM_ACTION_RESET_HARD
                                                 ? THRUM_RESET_HARD
                                                 : THRUM_RESET_SOFT),
                              memory_order_release);
        sim_engine_kick(device);
        return;
    }
    if (fault->kind == THRUM_RAS_THROTTLING) {
        uint64_t ms = fault->has_argument ? min_u64(fault->argument, 60000) : THROTTLE_MS;
        atomic_store_explicit(&device->ras.throttle_until_ns, now_ns() + (int64_t)ms * 1000000,
                              memory_order_relaxed);
        atomic_store_explicit(&device->ras.throttled, 1, memory_order_relaxed);
    } else if (fault->kind == THRUM_RAS_LINK_DOWN || fault->kind == THRUM_RAS_LINK_UP) {
        event.engine = THRUM_ENGINE_PORT;
    }
    sim_ras_event(device, event);
}

/* Takes the next fault that is due out of the script. Under the lock. */
static bool take_due(struct sim_ras *ras, uint64_t command, uint64_t now, bool with_command,
                     struct sim_fault *fault_out)
{
    for (size_t i = 0; i < ras->nscript; i++) {
        struct sim_fault *fault = &ras->script[i];
        bool due = fault->by_time ? fault->at <= now : with_command && fault->at <= command;
        if (!due || (needs_command(fault) && !with_command))
            continue;
        *fault_out = *fault;
        ras->nscript--;
        memmove(fault, fault + 1, (ras->nscript - i) * sizeof *fault);
        if (!ras->nscript)
            atomic_store_explicit(&ras->armed, 0, memory_order_release);
        return true;
    }
    return false;
}

bool sim_script_command(struct sim_device *device, struct sim_queue *queue,
                        struct sim_fault *fault_out)
{
    struct sim_ras *ras = &device->ras;
    uint64_t command = atomic_fetch_add_explicit(&ras->command_number, 1, memory_order_relaxed) + 1;
    uint64_t now = (uint64_t)now_ns();

    for (;;) {
        struct sim_fault fault;
        bool due;

        pthread_mutex_lock(&ras->lock);
        due = take_due(ras, command, now, true, &fault);
        pthread_mutex_unlock(&ras->lock);
        if (!due)
            return false;
        if (needs_command(&fault)) {
            *fault_out = fault;
            return true;
        }
        fire(device, &fault, queue);
        if (fault.action != SIM_ACTION_EVENT) {
            *fault_out = fault;
            return true;
        }
    }
}

int64_t sim_script_time(struct sim_device *device)
{
    struct sim_ras *ras = &device->ras;
    uint64_t now, next = UINT64_MAX;
    struct sim_fault fault;
    bool due;

    if (!atomic_load_explicit(&ras->armed, memory_order_acquire))
        return -1;
    now = (uint64_t)now_ns();
    do {
        pthread_mutex_lock(&ras->lock);
        due = take_due(ras, 0, now, false, &fault);
        pthread_mutex_unlock(&ras->lock);
        if (due)
            fire(device, &fault, NULL);
    } while (due);
    pthread_mutex_lock(&ras->lock);
    for (size_t i = 0; i < ras->nscript; i++)
        if (ras->script[i].by_time && !needs_command(&ras->script[i]))
            next = min_u64(next, ras->script[i].at);
    pthread_mutex_unlock(&ras->lock);
    return next == UINT64_MAX ? -1 : (int64_t)(next > now ? next - now : 0);
}

void sim_throttle(struct sim_device *device, int64_t start_ns)
{
    int64_t now = now_ns(), until_ns = now + (now - start_ns) * THROTTLE_FACTOR;

    if (now >= atomic_load_explicit(&device->ras.throttle_until_ns, memory_order_relaxed)) {
        atomic_store_explicit(&device->ras.throttled, 0, memory_order_relaxed);
        return;
    }
    while (now_ns() < until_ns)
        cpu_pause();
}
