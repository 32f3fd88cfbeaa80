/* Tensors and reductions in Thrum's words, and what is refused. Called by collectives.cpp and process_group.cpp. */
#include "backend.h"

#include <algorithm>
#include <cstring>

#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

namespace thrum_torch
{

namespace
{

char nothing[64]; /* what empty tensors point to */

/* As wide as the type, so that ranks that disagree are found. */
constexpr struct {
    at::ScalarType type;
    thrum_datatype_t dtype;
} types[] = {
    {at::kByte, THRUM_UINT8},
    {at::kBool, THRUM_UINT8},
    {at::kChar, THRUM_INT8},
    {at::kShort, THRUM_INT16},
    {at::kInt, THRUM_INT32},
    {at::kLong, THRUM_INT64},
    {at::kHalf, THRUM_FLOAT16},
    {at::kBFloat16, THRUM_BFLOAT16},
    {at::kFloat, THRUM_FLOAT32},
    {at::kDouble, THRUM_FLOAT64},
    {at::kComplexFloat, THRUM_COMPLEX64},
    {at::kComplexDouble, THRUM_COMPLEX128},
    {at::kComplexHalf, THRUM_UINT32}, /* moved only: see reduction_of */
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
    {at::kFloat8_e4m3fn, THRUM_FLOAT8_E4M3},
    {at::kFloat8_e5m2, THRUM_FLOAT8_E5M2},
#endif
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
    {at::kUInt16, THRUM_UINT16},
    {at::kUInt32, THRUM_UINT32},
    {at::kUInt64, THRUM_UINT64},
#endif
};

/* False: not a type that can be sent. */
bool dtype_of(at::ScalarType type, thrum_datatype_t *out)
{
    for (const auto &row : types) {
        if (row.type != type)
            continue;
        *out = row.dtype;
        return true;
    }
    return false;
}

const char *name_of(c10d::ReduceOp::RedOpType op)
{
    static const char *const names[] = {"SUM",  "AVG", "PRODUCT", "MIN",       "MAX",
                                        "BAND", "BOR", "BXOR",    "PREMUL_SUM"};

    return op < sizeof names / sizeof *names ? names[op] : "?";
}

bool thrum_op_of(c10d::ReduceOp::RedOpType op, thrum_redop_t *out)
{
    static const thrum_redop_t ops[] = {THRUM_SUM,  THRUM_AVG, THRUM_PROD, THRUM_MIN, THRUM_MAX,
                                        THRUM_BAND, THRUM_BOR, THRUM_BXOR, THRUM_SUM};

    if (op >= sizeof ops / sizeof *ops)
        return false;
    *out = ops[op];
    return true;
}

/* Of bytes that are 0 or 1 and have to stay so. */
bool bool_op_of(c10d::ReduceOp::RedOpType op, thrum_redop_t *out)
{
    switch (op) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::MAX:
    case c10d::ReduceOp::BOR:
        *out = THRUM_MAX;
        return true;
    case c10d::ReduceOp::PRODUCT:
    case c10d::ReduceOp::MIN:
    case c10d::ReduceOp::BAND:
        *out = THRUM_MIN;
        return true;
    case c10d::ReduceOp::BXOR:
        *out = THRUM_BXOR;
        return true;
    default:
        return false;
    }
}

void read_factor(const char *title, const c10d::ReduceOp &op, at::ScalarType type, char *factor)
{
    auto *supplement = dynamic_cast<c10d::NCCLPreMulSumSupplement *>(op.supplement_.get());
    at::Tensor value;

    TORCH_CHECK_VALUE(supplement, title, ": PREMUL_SUM without its factor");
#if TORCH_VERSION_MAJOR >= 2
    value = supplement->tensor_factor;
#else
    if (!supplement->tensor_factors.empty())
        value = supplement->tensor_factors[0];
#endif
    if (!value.defined())
        value =
            at::scalar_tensor(supplement->double_factor, at::TensorOptions().dtype(at::kDouble));
    TORCH_CHECK_VALUE(value.numel() == 1, title, ": PREMUL_SUM with a factor of ", value.numel(),
                      " elements");
    value = value.to(at::kCPU, type).contiguous();
    memcpy(factor, value.data_ptr(), value.element_size());
}

} // namespace

/* ---- tensors ---- */

at::Tensor Arguments::read(const at::Tensor &tensor) const
{
    if (!tensor.defined() || tensor.layout() != at::kStrided)
        return tensor; /* refused by element_of */
    if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg())
        return tensor;
    at::NoGradGuard no_history;
    return tensor.resolve_conj().resolve_neg().contiguous();
}

Tensors Arguments::read(const Tensors &tensors) const
{
    Tensors all;

    for (const at::Tensor &tensor : tensors)
        all.push_back(read(tensor));
    return all;
}

at::Tensor Arguments::written(const at::Tensor &tensor)
{
    at::Tensor own = read(tensor);

    if (!tensor.defined() || own.is_same(tensor))
        return tensor;
    TORCH_CHECK_VALUE(at::has_internal_overlap(tensor) != at::MemOverlap::Yes, title_,
                      ": a tensor that is written has several elements in one place, as those that "
                      ".expand() makes; pass its .clone()");
    copies_.emplace_back(tensor, own);
    return own;
}

Tensors Arguments::written(const Tensors &tensors)
{
    Tensors all;

    for (const at::Tensor &tensor : tensors)
        all.push_back(written(tensor));
    return all;
}

std::function<void()> Arguments::finish()
{
    if (copies_.empty())
        return nullptr;
    return [copies = std::move(copies_)] {
        at::NoGradGuard no_history;

        for (const auto &copy : copies) {
            c10::InferenceMode as_it_was_made(copy.first.is_inference()); /* any thread is here */
            copy.first.copy_(copy.second);
        }
    };
}

Element element_of(const char *title, const at::Tensor &tensor)
{
    Element element{};

    TORCH_CHECK_VALUE(tensor.defined(), title, ": a tensor is undefined");
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), title, ": a tensor is on ", tensor.device(),
                      "; this backend takes CPU tensors");
    TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, title, ": a tensor is ", tensor.layout(),
                      ", which this call does not take");
    TORCH_CHECK_TYPE(dtype_of(tensor.scalar_type(), &element.dtype), title,
                     ": no elements of type ", tensor.scalar_type());
    element.count = static_cast<size_t>(tensor.numel());
    element.bytes = tensor.element_size();
    element.data = element.count ? static_cast<char *>(tensor.data_ptr()) : nothing;
    return element;
}

const at::Tensor &one_tensor(const char *title, const Tensors &tensors)
{
    TORCH_CHECK_VALUE(tensors.size() == 1, title, " takes one tensor, not ", tensors.size());
    return tensors[0];
}

void check_alike(const char *title, const at::Tensor &a, const at::Tensor &b)
{
    TORCH_CHECK_TYPE(a.scalar_type() == b.scalar_type(), title, ": tensors of ", a.scalar_type(),
                     " and of ", b.scalar_type());
}

std::vector<Element> elements_of(const char *title, const char *argument, const Tensors &tensors,
                                 size_t n)
{
    std::vector<Element> elements;

    TORCH_CHECK_VALUE(tensors.size() == n, title, ": ", tensors.size(), " ", argument,
                      " tensors, where there have to be ", n);
    for (const at::Tensor &tensor : tensors) {
        elements.push_back(element_of(title, tensor));
        check_alike(title, tensors[0], tensor);
    }
    return elements;
}

void check_rank(const char *title, const char *argument, int64_t rank, int size)
{
    TORCH_CHECK_VALUE(rank >= 0 && rank < size, title, ": ", argument, " ", rank,
                      " is outside the group of ", size);
}

Reduction reduction_of(const char *title, const c10d::ReduceOp &op, const at::Tensor &tensor)
{
    Reduction reduction{};
    at::ScalarType type = tensor.scalar_type();
    auto kind = static_cast<c10d::ReduceOp::RedOpType>(op);
    bool known =
        type == at::kBool ? bool_op_of(kind, &reduction.op) : thrum_op_of(kind, &reduction.op);

    TORCH_CHECK_TYPE(known && type != at::kComplexHalf, title, ": no ", name_of(kind), " of ",
                     type);
    TORCH_CHECK_TYPE(!at::isComplexType(type) || kind == c10d::ReduceOp::SUM ||
                         kind == c10d::ReduceOp::AVG || kind == c10d::ReduceOp::PRODUCT ||
                         kind == c10d::ReduceOp::PREMUL_SUM,
                     title, ": no ", name_of(kind), " of ", type);
    TORCH_CHECK_TYPE(!at::isFloatingType(type) || reduction.op < THRUM_BAND ||
                         reduction.op > THRUM_BXOR,
                     title, ": no ", name_of(kind), " of ", type);
    (void)dtype_of(type, &reduction.dtype);
    reduction.scaled = kind == c10d::ReduceOp::PREMUL_SUM;
    if (reduction.scaled)
        read_factor(title, op, type, reduction.factor);
    return reduction;
}

void fold_locally(const char *title, const c10d::ReduceOp &op, at::Tensor &first,
                  const at::Tensor &other)
{
    bool is_bool = first.scalar_type() == at::kBool;

    switch (static_cast<c10d::ReduceOp::RedOpType>(op)) {
    case c10d::ReduceOp::SUM:
        is_bool ? first.logical_or_(other) : first.add_(other);
        return;
    case c10d::ReduceOp::PRODUCT:
        is_bool ? first.logical_and_(other) : first.mul_(other);
        return;
    case c10d::ReduceOp::MIN:
        first.copy_(at::minimum(first, other));
        return;
    case c10d::ReduceOp::MAX:
        first.copy_(at::maximum(first, other));
        return;
    case c10d::ReduceOp::BAND:
        first.bitwise_and_(other);
        return;
    case c10d::ReduceOp::BOR:
        first.bitwise_or_(other);
        return;
    case c10d::ReduceOp::BXOR:
        first.bitwise_xor_(other);
        return;
    default:
        TORCH_CHECK_VALUE(false, title, ": ", name_of(op), " takes one tensor");
    }
}

thrum_status_t in_pieces(const Element &element,
                         const std::function<thrum_status_t(char *, size_t)> &call)
{
    size_t most = kPieceBytes / element.bytes, done = 0;
    thrum_status_t status;

    do {
        size_t count = std::min(most, element.count - done);

        status = call(element.data + done * element.bytes, count);
        done += count;
    } while (!status && done < element.count);
    return status;
}

} // namespace thrum_torch
