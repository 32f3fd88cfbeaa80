/*
 * all_reduce of sparse tensors: every rank gathers the indices and values of all, and adds them up. How many each has is
 * not known before the call, so it takes two turns on its queue: sizes, then contents. Called by collectives.cpp.
 */
#include "backend.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

namespace thrum_torch
{

namespace
{

/* What a rank says of its tensor: how many indices, of how many dimensions; then its sizes. */
constexpr size_t kNumber = 0, kDimensions = 1, kSizes = 2;

/* Of one call; lives until its work ends. */
struct SparseSum {
    const char *title;
    std::vector<int64_t> said, all_said; /* of this rank; of all, one after the other */
    at::Tensor indices, values; /* of this rank; an index is a row */
    at::Tensor all_indices, all_values;

    thrum_status_t issue(size_t n, thrum_comm_t comm, Slot &slot);
    void check() const;
    std::string describe(const int64_t *of_rank) const;
    std::vector<Element> make_room(const at::Tensor &own, at::Tensor *all) const;
    at::Tensor sum() const;
};

std::string SparseSum::describe(const int64_t *of_rank) const
{
    std::string text = std::to_string(of_rank[kDimensions]) + " sparse dimensions of sizes (";

    for (size_t i = kSizes; i < said.size(); i++)
        text += (i > kSizes ? ", " : "") + std::to_string(of_rank[i]);
    return text + ")";
}

/* All ranks see the same, and fail alike. */
void SparseSum::check() const
{
    for (size_t at = 0; at < all_said.size(); at += said.size()) {
        const int64_t *first = all_said.data(), *other = first + at;

        TORCH_CHECK_VALUE(std::equal(first + kDimensions, first + said.size(), other + kDimensions),
                          title, ": ranks disagree: rank ", at / said.size(), " has ",
                          describe(other), ", rank 0 has ", describe(first));
    }
}

/* The rows of all ranks, and the blocks of each in them. */
std::vector<Element> SparseSum::make_room(const at::Tensor &own, at::Tensor *all) const
{
    std::vector<Element> blocks;
    std::vector<int64_t> sizes = own.sizes().vec();
    int64_t first = 0;

    sizes[0] = 0;
    for (size_t at = 0; at < all_said.size(); at += said.size())
        sizes[0] += all_said[at + kNumber];
    *all = at::empty(sizes, own.options());
    for (size_t at = 0; at < all_said.size(); at += said.size()) {
        int64_t number = all_said[at + kNumber];

        blocks.push_back(element_of(title, all->narrow(0, first, number)));
        first += number;
    }
    return blocks;
}

thrum_status_t SparseSum::issue(size_t n, thrum_comm_t comm, Slot &slot)
{
    thrum_status_t status;

    if (all_said.empty()) {
        all_said.resize(n * said.size());
        status = thrum_allgather(said.data(), all_said.data(), said.size(), THRUM_INT64, comm,
                                 slot.queue);
        return status ? status : THRUM_IN_PROGRESS;
    }
    check();
    auto index_blocks = make_room(indices, &all_indices);
    auto value_blocks = make_room(values, &all_values); /* nothing throws once one is issued */
    status = issue_allgather(element_of(title, indices), index_blocks, comm, slot);
    if (!status)
        status = issue_allgather(element_of(title, values), value_blocks, comm, slot);
    return status;
}

at::Tensor SparseSum::sum() const
{
    std::vector<int64_t> sizes(said.begin() + kSizes, said.end());

    return at::sparse_coo_tensor(all_indices.t(), all_values, sizes).coalesce();
}

} // namespace

ProcessGroup::WorkPtr ProcessGroup::allreduce_sparse(const at::Tensor &tensor,
                                                     const c10d::AllreduceOptions &options)
{
    const char *title = "thrum:all_reduce";
    at::NoGradGuard no_history;
    auto sum = std::make_shared<SparseSum>();
    size_t size = n();

    TORCH_CHECK_TYPE(static_cast<c10d::ReduceOp::RedOpType>(options.reduceOp) ==
                         c10d::ReduceOp::SUM,
                     title, ": sparse tensors can only be summed");
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), title, ": a tensor is on ", tensor.device(),
                      "; this backend takes CPU tensors");
    at::Tensor own = tensor.coalesce();
    sum->title = title;
    sum->said = {own._nnz(), own.sparse_dim()};
    sum->said.insert(sum->said.end(), own.sizes().begin(), own.sizes().end());
    sum->indices = own.indices().t().contiguous();
    sum->values = own.values().contiguous();
    (void)element_of(title, sum->values);
    return start(
        c10d::OpType::ALLREDUCE, title, {}, {{tensor}}, options.timeout,
        [sum, size](thrum_comm_t comm, Slot &slot) { return sum->issue(size, comm, slot); },
        [sum, tensor] {
            at::NoGradGuard guard;
            c10::InferenceMode as_it_was_made(tensor.is_inference()); /* any thread is here */
            at::Tensor(tensor).copy_(sum->sum());
        });
}

} // namespace thrum_torch
