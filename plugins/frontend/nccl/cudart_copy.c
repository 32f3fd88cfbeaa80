/*
 * Copies and fills. A copy is done by the stream's device; memory of another device is imported first. Copies from or to
 * pageable host memory return when they are done, as in CUDA those to it do.
 */
#include "cudart.h"

struct transfer {
    void *dst;
    const void *src;
    size_t dst_pitch, src_pitch; /* of rows */
    size_t width, height; /* bytes of a row, and rows */
    enum cudaMemcpyKind kind;
};

struct end {
    uint64_t address;
    bool host;
    bool pageable;
};

/* The device that has the memory; NULL: none, it is the host's. */
static struct cudart_device *owner(const void *pointer)
{
    struct cudart_range range = cudart_range_of(pointer);

    return range.kind == CUDART_DEVICE || range.kind == CUDART_IPC
               ? cudart_device_if_open(range.device)
               : NULL;
}

static cudaError_t find_end(struct cudart_device *device, const char *argument, const void *pointer,
                            size_t bytes, struct end *end)
{
    cudaError_t error = cudart_reach(device, argument, pointer, bytes, &end->address, &end->host);

    end->pageable = !error && end->host && cudart_range_of(pointer).kind == CUDART_PAGEABLE;
    return error;
}

/* What the caller said against what the pointers are. Pinned and managed memory may be called either. */
static cudaError_t check_kind(enum cudaMemcpyKind kind, const struct end *dst,
                              const struct end *src)
{
    bool dst_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool src_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;

    if (kind == cudaMemcpyDefault)
        return cudaSuccess;
    if ((dst_device && dst->pageable) || (!dst_device && !dst->host))
        return cudart_fail(cudaErrorInvalidValue, "kind=%d, but dst is %s memory", (int)kind,
                           dst->host ? "host" : "device");
    if ((src_device && src->pageable) || (!src_device && !src->host))
        return cudart_fail(cudaErrorInvalidValue, "kind=%d, but src is %s memory", (int)kind,
                           src->host ? "host" : "device");
    return cudaSuccess;
}

/* Rows as commands; staged where the engines cannot reach host memory, which waits for each. */
static thrum_status_t submit(struct cudart_stream *stream, const struct transfer *t,
                             const struct end *dst, const struct end *src)
{
    bool reaches_host = stream->device->properties.capabilities & THRUM_CAP_PAGEABLE;
    thrum_status_t status = THRUM_OK;

    for (size_t row = 0; row < t->height && !status; row++) {
        struct thrum_operand operands[2] = {{.base = dst->address + row * t->dst_pitch},
                                            {.base = src->address + row * t->src_pitch}};
        struct thrum_command command = {.opcode = THRUM_CMD_COPY,
                                        .flags = dst->host || src->host ? THRUM_CMD_FLAG_HOST : 0,
                                        .ndst = 1,
                                        .nsrc = 1,
                                        .bytes = t->width,
                                        .operands = operands};

        if (reaches_host || (!dst->host && !src->host))
            status = thrum_queue_submit(stream->queue, &command, 1, NULL);
        else if (src->host)
            status = thrum_copy_to_device(stream->queue, (void *)operands[0].base,
                                          (const void *)operands[1].base, t->width);
        else
            status = thrum_copy_to_host(stream->queue, (void *)operands[0].base,
                                        (const void *)operands[1].base, t->width);
    }
    return status;
}

static cudaError_t transfer(struct cudart_stream *stream, const struct transfer *t, bool wait)
{
    size_t dst_bytes = t->dst_pitch * (t->height - 1) + t->width;
    size_t src_bytes = t->src_pitch * (t->height - 1) + t->width;
    struct end dst, src;
    cudaError_t error;

    if (t->kind < cudaMemcpyHostToHost || t->kind > cudaMemcpyDefault)
        return cudart_fail(cudaErrorInvalidMemcpyDirection, "kind=%d", (int)t->kind);
    if (!t->width || !t->height)
        return cudaSuccess;
    if (!stream->device)
        return cudart_fail(cudaErrorInvalidResourceHandle,
                           "stream=%p is a queue of thrum_queue_create: use thrum_copy",
                           (void *)stream->queue);
    error = find_end(stream->device, "dst", t->dst, dst_bytes, &dst);
    if (!error)
        error = find_end(stream->device, "src", t->src, src_bytes, &src);
    if (!error)
        error = check_kind(t->kind, &dst, &src);
    if (!error && stream->capture &&
        !(stream->device->properties.capabilities & THRUM_CAP_PAGEABLE) &&
        (dst.pageable || src.pageable))
        error = cudart_capture_spoil(stream, cudaErrorStreamCaptureUnsupported,
                                     "a copy of pageable memory is staged by this device, which "
                                     "cannot be captured");
    if (!error)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeMemcpy);
    if (!error)
        error = cudart_of_status(submit(stream, t, &dst, &src));
    if (!error && !stream->capture && (wait || dst.pageable || src.pageable))
        error = cudart_stream_wait(stream, false);
    return error;
}

/* The default stream of the device that has one of the ends, else of the current one. */
static cudaError_t main_stream(const void *dst, const void *src, struct cudart_stream **stream_out)
{
    struct cudart_device *device = owner(dst);

    if (!device)
        device = owner(src);
    return cudart_stream_find(NULL, device ? device->index : -1, stream_out);
}

static cudaError_t check_pitches(const struct transfer *t)
{
    size_t bytes;

    if (t->width > t->dst_pitch || t->width > t->src_pitch)
        return cudart_fail(cudaErrorInvalidPitchValue, "width=%zu is more than a pitch (%zu, %zu)",
                           t->width, t->dst_pitch, t->src_pitch);
    if (__builtin_mul_overflow(t->dst_pitch, t->height, &bytes) ||
        __builtin_mul_overflow(t->src_pitch, t->height, &bytes))
        return cudart_fail(cudaErrorInvalidValue, "height=%zu is too much", t->height);
    return cudaSuccess;
}

static cudaError_t copy(const struct transfer *t)
{
    struct cudart_stream *stream;
    cudaError_t error = check_pitches(t);

    if (!error)
        error = main_stream(t->dst, t->src, &stream);
    return cudart_result(error ? error : transfer(stream, t, true));
}

static cudaError_t copy_async(const struct transfer *t, cudaStream_t handle)
{
    struct cudart_stream *stream;
    cudaError_t error = check_pitches(t);

    if (!error)
        error = cudart_stream_find(handle, -1, &stream);
    return cudart_result(error ? error : transfer(stream, t, false));
}

static struct transfer row(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    return (struct transfer){dst, src, bytes, bytes, bytes, 1, kind};
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    struct transfer t = row(dst, src, bytes, kind);

    return copy(&t);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    struct transfer t = row(dst, src, bytes, kind);

    return copy_async(&t, stream);
}

cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                         size_t width, size_t height, enum cudaMemcpyKind kind)
{
    return copy(&(struct transfer){dst, src, dst_pitch, src_pitch, width, height, kind});
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    return copy_async(&(struct transfer){dst, src, dst_pitch, src_pitch, width, height, kind},
                      stream);
}

/* ---- boxes: slices of rows ---- */

/* Before anything is copied: slices are copied one by one. */
static cudaError_t check_inside(const char *argument, const char *pointer, size_t bytes)
{
    struct cudart_range range = cudart_range_of(pointer);

    if (range.kind != CUDART_PAGEABLE && bytes > range.bytes - ((uintptr_t)pointer - range.base))
        return cudart_fail(cudaErrorInvalidValue, "%s=%p: %zu bytes leave the allocation of %zu",
                           argument, (const void *)pointer, bytes, range.bytes);
    return cudaSuccess;
}

/* Where the box begins in its memory; *slice_out: bytes from slice to slice. */
static cudaError_t find_corner(const struct cudaPitchedPtr *in, const struct cudaPos *at,
                               const struct cudaExtent *box, const char *argument, char **out,
                               size_t *slice_out)
{
    size_t rows, bytes;

    if (box->width > in->pitch || at->x > in->pitch - box->width)
        return cudart_fail(cudaErrorInvalidPitchValue, "%s: %zu bytes at %zu leave a row of %zu",
                           argument, box->width, at->x, in->pitch);
    if (box->depth + at->z > 1 && (box->height > in->ysize || at->y > in->ysize - box->height))
        return cudart_fail(cudaErrorInvalidValue, "%s: %zu rows at %zu leave a slice of %zu",
                           argument, box->height, at->y, in->ysize);
    if (__builtin_mul_overflow(in->pitch, in->ysize, slice_out) ||
        __builtin_add_overflow(box->depth, at->z, &rows) ||
        __builtin_mul_overflow(rows, *slice_out, &bytes) ||
        __builtin_mul_overflow(at->y, in->pitch, &bytes))
        return cudart_fail(cudaErrorInvalidValue, "%s: the box is too large", argument);
    *out = (char *)in->ptr + at->z * *slice_out + bytes + at->x;
    return check_inside(argument, *out,
                        (box->depth ? box->depth - 1 : 0) * *slice_out +
                            (box->height ? box->height - 1 : 0) * in->pitch + box->width);
}

/* handle: of a copy that does not wait. */
static cudaError_t copy_box(const struct cudaMemcpy3DParms *p, const cudaStream_t *handle)
{
    size_t dst_slice, src_slice;
    char *dst, *src;
    cudaError_t error;

    if (!p)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "p=NULL"));
    if (p->srcArray || p->dstArray)
        return cudart_result(cudart_fail(cudaErrorNotSupported, "there are no CUDA arrays"));
    if (!p->srcPtr.ptr || !p->dstPtr.ptr)
        return cudart_result(cudart_fail(cudaErrorInvalidValue, "srcPtr or dstPtr is NULL"));
    error = find_corner(&p->dstPtr, &p->dstPos, &p->extent, "dst", &dst, &dst_slice);
    if (!error)
        error = find_corner(&p->srcPtr, &p->srcPos, &p->extent, "src", &src, &src_slice);
    if (error)
        return cudart_result(error);
    for (size_t z = 0; z < p->extent.depth && !error; z++) {
        const struct transfer t = {
            dst + z * dst_slice, src + z * src_slice, p->dstPtr.pitch, p->srcPtr.pitch,
            p->extent.width,     p->extent.height,    p->kind};

        error = handle ? copy_async(&t, *handle) : copy(&t);
    }
    return error;
}

cudaError_t cudaMemcpy3D(const struct cudaMemcpy3DParms *p)
{
    return copy_box(p, NULL);
}

cudaError_t cudaMemcpy3DAsync(const struct cudaMemcpy3DParms *p, cudaStream_t stream)
{
    return copy_box(p, &stream);
}

/* ---- from device to device ---- */

static cudaError_t check_owner(const char *argument, const void *pointer, int device)
{
    struct cudart_device *is = owner(pointer);

    if (!is || is->index != device)
        return cudart_fail(cudaErrorInvalidValue, "%s=%p is not memory of device %d", argument,
                           pointer, device);
    return cudaSuccess;
}

static cudaError_t check_owners(const void *dst, int dst_device, const void *src, int src_device)
{
    cudaError_t error = check_owner("dst", dst, dst_device);

    return error ? error : check_owner("src", src, src_device);
}

cudaError_t cudaMemcpyPeer(void *dst, int dst_device, const void *src, int src_device, size_t bytes)
{
    cudaError_t error = check_owners(dst, dst_device, src, src_device);

    return error ? cudart_result(error) : cudaMemcpy(dst, src, bytes, cudaMemcpyDeviceToDevice);
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device,
                                size_t bytes, cudaStream_t stream)
{
    cudaError_t error = check_owners(dst, dst_device, src, src_device);

    return error ? cudart_result(error)
                 : cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream);
}

/* ---- fills ---- */

/* Rows of `width` bytes, `pitch` bytes apart. */
struct area {
    void *pointer;
    size_t pitch, width, height;
};

static cudaError_t fill(struct cudart_stream *stream, const struct area *area, int value, bool wait)
{
    size_t bytes;
    uint64_t address;
    bool host;
    cudaError_t error;

    if (!area->width || !area->height)
        return cudaSuccess;
    if (area->width > area->pitch)
        return cudart_fail(cudaErrorInvalidValue, "width=%zu is more than the pitch of %zu",
                           area->width, area->pitch);
    if (__builtin_mul_overflow(area->pitch, area->height - 1, &bytes) ||
        __builtin_add_overflow(bytes, area->width, &bytes))
        return cudart_fail(cudaErrorInvalidValue, "height=%zu is too much", area->height);
    if (!stream->device)
        return cudart_fail(cudaErrorInvalidResourceHandle,
                           "stream=%p is a queue of thrum_queue_create: use thrum_fill",
                           (void *)stream->queue);
    error = cudart_reach(stream->device, "pointer", area->pointer, bytes, &address, &host);
    if (!error && host && cudart_range_of(area->pointer).kind == CUDART_PAGEABLE)
        error =
            cudart_fail(cudaErrorInvalidValue, "pointer=%p is not device memory", area->pointer);
    if (!error)
        error = cudart_stream_enter(stream, cudaGraphNodeTypeMemset);
    for (size_t row = 0; row < area->height && !error; row++)
        error = cudart_of_status(thrum_fill(stream->queue,
                                            (void *)(uintptr_t)(address + row * area->pitch),
                                            (uint8_t)value, area->width));
    return !error && wait ? cudart_stream_wait(stream, false) : error;
}

static cudaError_t fill_now(const struct area *area, int value)
{
    struct cudart_stream *stream;
    cudaError_t error = main_stream(area->pointer, NULL, &stream);

    return cudart_result(error ? error : fill(stream, area, value, true));
}

static cudaError_t fill_later(const struct area *area, int value, cudaStream_t handle)
{
    struct cudart_stream *stream;
    cudaError_t error = cudart_stream_find(handle, -1, &stream);

    return cudart_result(error ? error : fill(stream, area, value, false));
}

cudaError_t cudaMemset(void *pointer, int value, size_t bytes)
{
    return fill_now(&(struct area){pointer, bytes, bytes, 1}, value);
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream)
{
    return fill_later(&(struct area){pointer, bytes, bytes, 1}, value, stream);
}

cudaError_t cudaMemset2D(void *pointer, size_t pitch, int value, size_t width, size_t height)
{
    return fill_now(&(struct area){pointer, pitch, width, height}, value);
}

cudaError_t cudaMemset2DAsync(void *pointer, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream)
{
    return fill_later(&(struct area){pointer, pitch, width, height}, value, stream);
}

static cudaError_t fill_box(struct cudaPitchedPtr pitched, int value, struct cudaExtent extent,
                            const cudaStream_t *handle)
{
    size_t slice;
    char *corner;
    cudaError_t error =
        find_corner(&pitched, &(struct cudaPos){0, 0, 0}, &extent, "pitched", &corner, &slice);

    if (!error && !pitched.ptr)
        error = cudart_fail(cudaErrorInvalidValue, "pitched.ptr=NULL");
    if (error)
        return cudart_result(error);
    for (size_t z = 0; z < extent.depth && !error; z++) {
        const struct area area = {corner + z * slice, pitched.pitch, extent.width, extent.height};

        error = handle ? fill_later(&area, value, *handle) : fill_now(&area, value);
    }
    return error;
}

cudaError_t cudaMemset3D(struct cudaPitchedPtr pitched, int value, struct cudaExtent extent)
{
    return fill_box(pitched, value, extent, NULL);
}

cudaError_t cudaMemset3DAsync(struct cudaPitchedPtr pitched, int value, struct cudaExtent extent,
                              cudaStream_t stream)
{
    return fill_box(pitched, value, extent, &stream);
}
