/* ncclConfig_t: which fields a caller's version of it has, and what they mean here. */
#include "frontend.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <thrum/plugin.h>

/* Where the fields of each version end: what an older caller's struct has behind them is padding, or not there. */
static const struct {
    unsigned version;
    size_t end;
} versions[] = {{NCCL_VERSION(2, 14, 0), offsetof(ncclConfig_t, cgaClusterSize)},
                {NCCL_VERSION(2, 17, 0), offsetof(ncclConfig_t, splitShare)},
                {NCCL_VERSION(2, 18, 0), offsetof(ncclConfig_t, trafficClass)},
                {NCCL_VERSION(2, 25, 0), offsetof(ncclConfig_t, commName)},
                {NCCL_VERSION(2, 27, 0), offsetof(ncclConfig_t, nvlsCTAs) + sizeof(int)},
                {NCCL_VERSION(2, 28, 0), sizeof(ncclConfig_t)}};

static ncclResult_t check_int(const char *function, const char *field, int value, int min, int max)
{
    if (value == NCCL_CONFIG_UNDEF_INT || (value >= min && value <= max))
        return ncclSuccess;
    return nccl_fail(ncclInvalidArgument, "%s: config.%s=%d is not between %d and %d", function,
                     field, value, min, max);
}

/* Fields that are advice for NCCL's kernels and networks have no effect, but have to make sense. */
static ncclResult_t check_fields(const char *function, const ncclConfig_t *c)
{
    const struct {
        const char *field;
        int value, min, max;
    } rows[] = {{"blocking", c->blocking, 0, 1},
                {"cgaClusterSize", c->cgaClusterSize, 0, 8},
                {"minCTAs", c->minCTAs, 1, INT_MAX},
                {"maxCTAs", c->maxCTAs, 1, INT_MAX},
                {"splitShare", c->splitShare, 0, 1},
                {"collnetEnable", c->collnetEnable, 0, 1},
                {"CTAPolicy", c->CTAPolicy, NCCL_CTA_POLICY_DEFAULT,
                 NCCL_CTA_POLICY_EFFICIENCY | NCCL_CTA_POLICY_ZERO},
                {"shrinkShare", c->shrinkShare, 0, 1},
                {"nvlsCTAs", c->nvlsCTAs, 1, INT_MAX},
                {"nChannelsPerNetPeer", c->nChannelsPerNetPeer, 1, 1024},
                {"nvlinkCentricSched", c->nvlinkCentricSched, 0, 1}};
    ncclResult_t result = ncclSuccess;

    for (size_t i = 0; i < sizeof rows / sizeof *rows && !result; i++)
        result = check_int(function, rows[i].field, rows[i].value, rows[i].min, rows[i].max);
    if (!result && c->minCTAs != NCCL_CONFIG_UNDEF_INT && c->maxCTAs != NCCL_CONFIG_UNDEF_INT &&
        c->minCTAs > c->maxCTAs)
        result = nccl_fail(ncclInvalidArgument, "%s: config.minCTAs=%d is more than maxCTAs=%d",
                           function, c->minCTAs, c->maxCTAs);
    if (!result && c->netName && strcmp(c->netName, thrum_plugin_config("THRUM_FABRIC")))
        result = nccl_fail(ncclInvalidUsage,
                           "%s: config.netName=\"%s\": networks are chosen by THRUM_FABRIC, which "
                           "is \"%s\"",
                           function, c->netName, thrum_plugin_config("THRUM_FABRIC"));
    if (!result && c->commName && strlen(c->commName) >= sizeof((struct nccl_config *)0)->name)
        result =
            nccl_fail(ncclInvalidArgument,
                      "%s: config.commName has %zu characters; %zu are "
                      "possible",
                      function, strlen(c->commName), sizeof((struct nccl_config *)0)->name - 1);
    return result;
}

ncclResult_t nccl_config_read(const char *function, const ncclConfig_t *config,
                              const struct ncclComm *parent, struct nccl_config *out)
{
    ncclConfig_t own = NCCL_CONFIG_INITIALIZER;
    size_t end = 0;
    ncclResult_t result;

    *out = (struct nccl_config){.blocking = parent ? parent->config.blocking : true};
    if (!config)
        return ncclSuccess;
    if (config->magic != NCCL_CONFIG_MAGIC || config->size < versions[0].end)
        return nccl_fail(ncclInvalidArgument,
                         "%s: config has magic=%#x and size=%zu: initialize it by "
                         "NCCL_CONFIG_INITIALIZER",
                         function, config->magic, config->size);
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        if (config->version >= versions[i].version)
            end = versions[i].end;
    if (!end)
        return nccl_fail(ncclInvalidArgument, "%s: config.version=%u is older than any", function,
                         config->version);
    if (end > config->size)
        return nccl_fail(ncclInvalidArgument, "%s: config.size=%zu is too small for version=%u",
                         function, config->size, config->version);
    memcpy(&own, config, end);
    result = check_fields(function, &own);
    if (result)
        return result;
    if (own.blocking != NCCL_CONFIG_UNDEF_INT)
        out->blocking = own.blocking;
    if (own.commName)
        snprintf(out->name, sizeof out->name, "%s", own.commName);
    return ncclSuccess;
}
