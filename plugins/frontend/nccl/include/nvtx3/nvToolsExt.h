/*
 * Ranges and marks of NVIDIA's tools, as they are where no tool listens: nothing happens. Header only, as NVTX 3 is.
 */
#ifndef NVTX3_NVTOOLSEXT_H
#define NVTX3_NVTOOLSEXT_H

#include <stddef.h>
#include <stdint.h>

#define NVTX_VERSION 3
#define NVTX_NO_PUSH_POP_TRACKING ((int)-2)

typedef uint64_t nvtxRangeId_t;
typedef struct nvtxDomainRegistration_st *nvtxDomainHandle_t;
typedef struct nvtxStringRegistration_st *nvtxStringHandle_t;

typedef enum nvtxColorType_t { NVTX_COLOR_UNKNOWN = 0, NVTX_COLOR_ARGB = 1 } nvtxColorType_t;
typedef enum nvtxMessageType_t {
    NVTX_MESSAGE_UNKNOWN = 0,
    NVTX_MESSAGE_TYPE_ASCII = 1,
    NVTX_MESSAGE_TYPE_UNICODE = 2,
    NVTX_MESSAGE_TYPE_REGISTERED = 3
} nvtxMessageType_t;
typedef enum nvtxPayloadType_t {
    NVTX_PAYLOAD_UNKNOWN = 0,
    NVTX_PAYLOAD_TYPE_UNSIGNED_INT64 = 1,
    NVTX_PAYLOAD_TYPE_INT64 = 2,
    NVTX_PAYLOAD_TYPE_DOUBLE = 3,
    NVTX_PAYLOAD_TYPE_UNSIGNED_INT32 = 4,
    NVTX_PAYLOAD_TYPE_INT32 = 5,
    NVTX_PAYLOAD_TYPE_FLOAT = 6
} nvtxPayloadType_t;
typedef union nvtxMessageValue_t {
    const char *ascii;
    const wchar_t *unicode;
    nvtxStringHandle_t registered;
} nvtxMessageValue_t;
typedef struct nvtxEventAttributes_v2 {
    uint16_t version, size;
    uint32_t category;
    int32_t colorType;
    uint32_t color;
    int32_t payloadType, reserved0;
    union payload_t {
        uint64_t ullValue;
        int64_t llValue;
        double dValue;
        uint32_t uiValue;
        int32_t iValue;
        float fValue;
    } payload;
    int32_t messageType;
    nvtxMessageValue_t message;
} nvtxEventAttributes_t;
#define NVTX_EVENT_ATTRIB_STRUCT_SIZE ((uint16_t)sizeof(nvtxEventAttributes_t))

/* type of the result, function, its arguments, the result */
#define THRUM_NVTX_MAP(X) \
    X(void, nvtxMarkA, (const char *message), ) \
    X(void, nvtxMarkEx, (const nvtxEventAttributes_t *attributes), ) \
    X(int, nvtxRangePushA, (const char *message), NVTX_NO_PUSH_POP_TRACKING) \
    X(int, nvtxRangePushEx, (const nvtxEventAttributes_t *attributes), NVTX_NO_PUSH_POP_TRACKING) \
    X(int, nvtxRangePop, (void), NVTX_NO_PUSH_POP_TRACKING) \
    X(nvtxRangeId_t, nvtxRangeStartA, (const char *message), 0) \
    X(nvtxRangeId_t, nvtxRangeStartEx, (const nvtxEventAttributes_t *attributes), 0) \
    X(void, nvtxRangeEnd, (nvtxRangeId_t id), ) \
    X(void, nvtxNameOsThreadA, (uint32_t thread, const char *name), ) \
    X(void, nvtxNameCategoryA, (uint32_t category, const char *name), ) \
    X(nvtxDomainHandle_t, nvtxDomainCreateA, (const char *name), 0) \
    X(void, nvtxDomainDestroy, (nvtxDomainHandle_t domain), ) \
    X(nvtxStringHandle_t, nvtxDomainRegisterStringA, \
      (nvtxDomainHandle_t domain, const char *string), 0) \
    X(void, nvtxDomainMarkEx, \
      (nvtxDomainHandle_t domain, const nvtxEventAttributes_t *attributes), ) \
    X(int, nvtxDomainRangePushEx, \
      (nvtxDomainHandle_t domain, const nvtxEventAttributes_t *attributes), \
      NVTX_NO_PUSH_POP_TRACKING) \
    X(int, nvtxDomainRangePop, (nvtxDomainHandle_t domain), NVTX_NO_PUSH_POP_TRACKING)

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#define X(type, function, arguments, result) \
    static inline type function arguments \
    { \
        return result; \
    }
THRUM_NVTX_MAP(X)
#undef X
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#define nvtxMark nvtxMarkA
#define nvtxRangePush nvtxRangePushA
#define nvtxRangeStart nvtxRangeStartA
#define nvtxNameOsThread nvtxNameOsThreadA
#define nvtxDomainCreate nvtxDomainCreateA

#endif
