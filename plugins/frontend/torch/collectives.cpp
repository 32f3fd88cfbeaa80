/*
 * Torch's collectives as Thrum's. Each function checks its arguments, throwing what is wrong with them, and starts a call
 * that the lane issues. Called by torch.
 *
 * Lists of tensors that do not lie one after the other in memory are gathered into the slot's scratch, or handed out of it, by
 * commands of the same queue. What a call is cut into must come out alike on all ranks, so it depends on sizes only, never
 * on where tensors lie.
 */
#include "backend.h"

#include <algorithm>

namespace thrum_torch
{

namespace
{

using c10d::OpType;

constexpr size_t kScratchBytes = 4u << 20; /* all ranks' blocks of one part of a list */

bool is_alike(const std::vector<Element> &blocks)
{
    return std::all_of(blocks.begin(), blocks.end(),
                       [&](const Element &block) { return block.count == blocks[0].count; });
}

/* One after the other in memory. */
bool is_adjacent(const std::vector<Element> &blocks)
{
    for (size_t i = 1; i < blocks.size(); i++)
        if (blocks[i].data != blocks[0].data + i * blocks[0].count * blocks[0].bytes)
            return false;
    return true;
}

/*
 * Calls `call` for parts of `count` elements of `bytes` of which every rank has a block: first element, number, and
 * whether it is all of it.
 */
template <typename Call>
thrum_status_t by_parts(size_t n, size_t count, size_t bytes, size_t most_bytes, const Call &call)
{
    size_t most = std::max<size_t>(1, most_bytes / (n * bytes)), done = 0;
    thrum_status_t status;

    do {
        size_t part = std::min(most, count - done);

        status = call(done, part, part == count);
        done += part;
    } while (!status && done < count);
    return status;
}

/* Between a part of each block and the scratch, where they lie one after the other. */
thrum_status_t copy_parts(const Slot &slot, char *scratch, const std::vector<Element> &blocks,
                          size_t first, size_t count, bool to_scratch)
{
    thrum_status_t status = THRUM_OK;

    for (size_t r = 0; r < blocks.size() && !status; r++) {
        size_t bytes = blocks[r].bytes;
        char *at = blocks[r].data + first * bytes, *there = scratch + r * count * bytes;

        status =
            to_scratch ? slot.copy(there, at, count * bytes) : slot.copy(at, there, count * bytes);
    }
    return status;
}

/* Which way a call moves what is in a list of blocks. */
enum class List { Read, Written };

/*
 * Calls `call` for parts of the list's blocks, of `own.count` elements each: where the blocks' parts lie one after the other,
 * where the part of the own block lies, and its number of elements. Without blocks, at a rank that has none, NULL.
 */
template <typename Call>
thrum_status_t by_blocks(const std::vector<Element> &blocks, List list, const Element &own,
                         size_t n, Slot &slot, const Call &call)
{
    bool adjacent = is_adjacent(blocks);

    return by_parts(n, own.count, own.bytes, kScratchBytes,
                    [&](size_t first, size_t count, bool all) {
                        bool direct = blocks.empty() || (all && adjacent);
                        char *at = blocks.empty() ? nullptr
                                   : direct       ? blocks[0].data
                                                  : slot.need_scratch(n * count * own.bytes);
                        thrum_status_t status = THRUM_OK;

                        if (!direct && list == List::Read)
                            status = copy_parts(slot, at, blocks, first, count, true);
                        if (!status)
                            status = call(at, own.data + first * own.bytes, count);
                        if (!direct && list == List::Written && !status)
                            status = copy_parts(slot, at, blocks, first, count, false);
                        return status;
                    });
}

/* What `call` does with the reduction, which lives as long as it is called. */
template <typename Call>
thrum_status_t with_op(thrum_comm_t comm, const Reduction &reduction, const Call &call)
{
    thrum_redop_t op = reduction.op;
    thrum_status_t status = THRUM_OK, after;

    if (reduction.scaled)
        status = thrum_redop_create_premul_sum(comm, reduction.factor, reduction.dtype,
                                               THRUM_SCALAR_HOST, &op);
    if (status)
        return status;
    status = call(op);
    if (reduction.scaled) {
        after = thrum_redop_destroy(comm, op);
        status = status ? status : after;
    }
    return status;
}

void check_count(const char *title, const char *argument, size_t count, size_t wanted)
{
    TORCH_CHECK_VALUE(count == wanted, title, ": ", argument, " has ", count,
                      " elements, where there have to be ", wanted);
}

/* Blocks of each rank, where they differ in size from rank to rank; elements, not rows. */
struct Split {
    std::vector<size_t> counts, displs;
};

Split split_of(const char *title, const char *argument, const at::Tensor &tensor,
               const std::vector<int64_t> &rows, size_t n)
{
    size_t length = tensor.dim() ? static_cast<size_t>(tensor.size(0)) : 1, total = 0;
    size_t row = length ? static_cast<size_t>(tensor.numel()) / length : 0;
    Split split;

    TORCH_CHECK_VALUE(!rows.empty() || length % n == 0, title, ": ", argument, " has ", length,
                      " rows, which cannot be split evenly among ", n, " ranks");
    TORCH_CHECK_VALUE(rows.empty() || rows.size() == n, title, ": ", rows.size(), " ", argument,
                      " split sizes for ", n, " ranks");
    for (size_t r = 0; r < n; r++) {
        int64_t mine = rows.empty() ? static_cast<int64_t>(length / n) : rows[r];

        TORCH_CHECK_VALUE(mine >= 0, title, ": ", argument, " split size ", mine, " of rank ", r);
        split.displs.push_back(total * row);
        split.counts.push_back(static_cast<size_t>(mine) * row);
        total += static_cast<size_t>(mine);
    }
    TORCH_CHECK_VALUE(total == length, title, ": the ", argument, " split sizes add up to ", total,
                      ", and it has ", length, " rows");
    return split;
}

} // namespace

/* ---- one tensor on every rank ---- */

ProcessGroup::WorkPtr ProcessGroup::allreduce(Tensors &tensors,
                                              const c10d::AllreduceOptions &options)
{
    const char *title = "thrum:all_reduce";

    TORCH_CHECK_VALUE(!tensors.empty(), title, ": no tensor");
    if (tensors[0].defined() && tensors[0].layout() == at::kSparse)
        return allreduce_sparse(one_tensor(title, tensors), options);
    Arguments arguments(title);
    Tensors own = arguments.written(tensors);
    std::vector<Element> blocks = elements_of(title, "", own, own.size());
    Reduction reduction = reduction_of(title, options.reduceOp, own[0]);

    for (size_t i = 1; i < own.size(); i++) { /* as gloo: all tensors of all ranks */
        check_count(title, "a tensor", blocks[i].count, blocks[0].count);
        fold_locally(title, options.reduceOp, own[0], own[i]);
    }
    return start(
        OpType::ALLREDUCE, title, own, {tensors}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            const Element &e = blocks[0];
            thrum_status_t status = with_op(comm, reduction, [&](thrum_redop_t op) {
                return in_pieces(e, [&](char *at, size_t count) {
                    return thrum_allreduce(at, at, count, e.dtype, op, comm, slot.queue);
                });
            });
            for (size_t i = 1; i < blocks.size() && !status; i++)
                status = slot.copy(blocks[i].data, e.data, e.count * e.bytes);
            return status;
        },
        arguments.finish());
}

ProcessGroup::WorkPtr
ProcessGroup::allreduce_coalesced(Tensors &tensors, const c10d::AllreduceCoalescedOptions &options)
{
    const char *title = "thrum:all_reduce_coalesced";
    Arguments arguments(title);
    Tensors own = arguments.written(tensors);
    std::vector<Element> blocks;
    std::vector<Reduction> reductions;

    TORCH_CHECK_VALUE(!tensors.empty(), title, ": no tensor");
    for (const at::Tensor &tensor : own) {
        blocks.push_back(element_of(title, tensor));
        reductions.push_back(reduction_of(title, options.reduceOp, tensor));
    }
    return start(
        OpType::ALLREDUCE_COALESCED, title, own, {tensors}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            thrum_status_t status = THRUM_OK;

            for (size_t i = 0; i < blocks.size() && !status; i++)
                status = with_op(comm, reductions[i], [&](thrum_redop_t op) {
                    return in_pieces(blocks[i], [&](char *at, size_t count) {
                        return thrum_allreduce(at, at, count, blocks[i].dtype, op, comm,
                                               slot.queue);
                    });
                });
            return status;
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::broadcast(Tensors &tensors,
                                              const c10d::BroadcastOptions &options)
{
    const char *title = "thrum:broadcast";
    int root = static_cast<int>(options.rootRank);

    check_rank(title, "root", options.rootRank, size_);
    TORCH_CHECK_VALUE(!tensors.empty() && options.rootTensor >= 0 &&
                          static_cast<size_t>(options.rootTensor) < tensors.size(),
                      title, ": root tensor ", options.rootTensor, " of ", tensors.size());
    Arguments arguments(title);
    bool only_read = rank_ == root && tensors.size() == 1;
    Tensors own = only_read ? arguments.read(tensors) : arguments.written(tensors);
    std::vector<Element> blocks = elements_of(title, "", own, own.size());
    Element e = blocks[static_cast<size_t>(options.rootTensor)];

    for (const Element &block : blocks)
        check_count(title, "a tensor", block.count, e.count);
    return start(
        OpType::BROADCAST, title, own, {tensors}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            thrum_status_t status = in_pieces(e, [&](char *at, size_t count) {
                return thrum_broadcast(at, at, count, e.dtype, root, comm, slot.queue);
            });
            for (size_t i = 0; i < blocks.size() && !status; i++)
                if (blocks[i].data != e.data)
                    status = slot.copy(blocks[i].data, e.data, e.count * e.bytes);
            return status;
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::reduce(Tensors &tensors, const c10d::ReduceOptions &options)
{
    const char *title = "thrum:reduce";
    Arguments arguments(title);
    const at::Tensor &tensor = one_tensor(title, tensors);
    int root = static_cast<int>(options.rootRank);
    at::Tensor own = rank_ == root ? arguments.written(tensor) : arguments.read(tensor);
    Element e = element_of(title, own);
    Reduction reduction = reduction_of(title, options.reduceOp, own);

    check_rank(title, "root", options.rootRank, size_);
    return start(
        OpType::REDUCE, title, {own}, {tensors}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            return with_op(comm, reduction, [&](thrum_redop_t op) {
                return in_pieces(e, [&](char *at, size_t count) {
                    return thrum_reduce(at, rank_ == root ? at : nullptr, count, e.dtype, op, root,
                                        comm, slot.queue);
                });
            });
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::barrier(const c10d::BarrierOptions &options)
{
    return start(
        OpType::BARRIER, "thrum:barrier", {}, {}, options.timeout,
        [](thrum_comm_t comm, Slot &slot) { return thrum_barrier(comm, slot.queue); }, nullptr);
}

/* ---- a block of every rank ---- */

namespace
{

thrum_status_t issue_allgather(const Element &in, const Element &out, size_t n, thrum_comm_t comm,
                               const Slot &slot)
{
    return by_parts(n, in.count, in.bytes, kPieceBytes, [&](size_t first, size_t count, bool all) {
        std::vector<size_t> counts(n, count), displs;

        if (all)
            return thrum_allgather(in.data, out.data, count, in.dtype, comm, slot.queue);
        for (size_t r = 0; r < n; r++)
            displs.push_back(r * in.count + first);
        return thrum_allgatherv(in.data + first * in.bytes, out.data, counts.data(), displs.data(),
                                in.dtype, comm, slot.queue);
    });
}

} // namespace

thrum_status_t issue_allgather(const Element &in, const std::vector<Element> &out,
                               thrum_comm_t comm, Slot &slot)
{
    size_t n = out.size();

    if (!is_alike(out)) {
        thrum_status_t status = THRUM_OK;

        for (size_t r = 0; r < n && !status; r++)
            status = in_pieces(out[r], [&](char *at, size_t count) {
                char *from = in.data + (at - out[r].data); /* read at the root */

                return thrum_broadcast(from, at, count, in.dtype, static_cast<int>(r), comm,
                                       slot.queue);
            });
        return status;
    }
    return by_blocks(out, List::Written, in, n, slot, [&](char *to, char *from, size_t count) {
        return thrum_allgather(from, to, count, in.dtype, comm, slot.queue);
    });
}

namespace
{

thrum_status_t issue_reduce_scatter(const Element &in, const Element &out, size_t n,
                                    const Reduction &reduction, int rank, thrum_comm_t comm,
                                    const Slot &slot)
{
    return with_op(comm, reduction, [&](thrum_redop_t op) {
        thrum_status_t status = THRUM_OK;

        if (n * out.count * out.bytes <= kPieceBytes)
            return thrum_reduce_scatter(in.data, out.data, out.count, out.dtype, op, comm,
                                        slot.queue);
        for (size_t r = 0; r < n && !status; r++) {
            bool is_root = r == static_cast<size_t>(rank);
            Element block = in;

            block.data += r * out.count * out.bytes;
            block.count = out.count;
            status = in_pieces(block, [&](char *at, size_t count) {
                return thrum_reduce(at, is_root ? out.data + (at - block.data) : nullptr, count,
                                    out.dtype, op, static_cast<int>(r), comm, slot.queue);
            });
        }
        return status;
    });
}

thrum_status_t issue_reduce_scatter(const std::vector<Element> &in, const Element &out,
                                    const Reduction &reduction, int rank, thrum_comm_t comm,
                                    Slot &slot)
{
    size_t n = in.size();

    return with_op(comm, reduction, [&](thrum_redop_t op) {
        thrum_status_t status = THRUM_OK;

        if (is_alike(in))
            return by_blocks(in, List::Read, out, n, slot, [&](char *from, char *to, size_t count) {
                return thrum_reduce_scatter(from, to, count, out.dtype, op, comm, slot.queue);
            });
        for (size_t r = 0; r < n && !status; r++)
            status = in_pieces(in[r], [&](char *at, size_t count) {
                bool is_root = r == static_cast<size_t>(rank);

                return thrum_reduce(at, is_root ? out.data + (at - in[r].data) : nullptr, count,
                                    out.dtype, op, static_cast<int>(r), comm, slot.queue);
            });
        return status;
    });
}

} // namespace

ProcessGroup::WorkPtr ProcessGroup::allgather(std::vector<Tensors> &outputs, Tensors &inputs,
                                              const c10d::AllgatherOptions &options)
{
    const char *title = "thrum:all_gather";
    Arguments arguments(title);
    at::Tensor input = arguments.read(one_tensor(title, inputs));
    Element in = element_of(title, input);

    TORCH_CHECK_VALUE(outputs.size() == 1, title, " takes one list of outputs, not ",
                      outputs.size());
    std::vector<Element> out = elements_of(title, "output", arguments.written(outputs[0]), n());
    check_alike(title, input, outputs[0][0]);
    check_count(title, "the input", in.count, out[static_cast<size_t>(rank_)].count);
    return start(
        OpType::ALLGATHER, title, {input}, outputs, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) { return issue_allgather(in, out, comm, slot); },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::_allgather_base(at::Tensor &output, at::Tensor &input,
                                                    const c10d::AllgatherOptions &options)
{
    const char *title = "thrum:_all_gather_base";
    Arguments arguments(title);
    at::Tensor own = arguments.read(input);
    Element in = element_of(title, own), out = element_of(title, arguments.written(output));
    size_t size = n();

    check_alike(title, input, output);
    check_count(title, "the output", out.count, size * in.count);
    return start(
        OpType::_ALLGATHER_BASE, title, {own}, {{output}}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) { return issue_allgather(in, out, size, comm, slot); },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::allgather_coalesced(std::vector<Tensors> &outputs,
                                                        Tensors &inputs,
                                                        const c10d::AllgatherOptions &options)
{
    const char *title = "thrum:all_gather_coalesced";
    Arguments arguments(title);
    Tensors own = arguments.read(inputs);
    std::vector<Element> in;
    std::vector<std::vector<Element>> out(inputs.size());

    TORCH_CHECK_VALUE(!inputs.empty(), title, ": no tensor");
    TORCH_CHECK_VALUE(outputs.size() == n(), title, ": ", outputs.size(), " lists of outputs for ",
                      size_, " ranks");
    for (size_t i = 0; i < inputs.size(); i++) {
        in.push_back(element_of(title, own[i]));
        for (const Tensors &list : outputs) {
            TORCH_CHECK_VALUE(list.size() == inputs.size(), title, ": ", list.size(),
                              " outputs of a rank for ", inputs.size(), " inputs");
            check_alike(title, inputs[i], list[i]);
            out[i].push_back(element_of(title, arguments.written(list[i])));
            check_count(title, "an output", out[i].back().count, in[i].count);
        }
    }
    return start(
        OpType::ALLGATHER_COALESCED, title, own, outputs, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            thrum_status_t status = THRUM_OK;

            for (size_t i = 0; i < in.size() && !status; i++)
                status = issue_allgather(in[i], out[i], comm, slot);
            return status;
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::reduce_scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                                                   const c10d::ReduceScatterOptions &options)
{
    const char *title = "thrum:reduce_scatter";
    Arguments arguments(title);
    at::Tensor output = arguments.written(one_tensor(title, outputs));
    Element out = element_of(title, output);

    TORCH_CHECK_VALUE(inputs.size() == 1, title, " takes one list of inputs, not ", inputs.size());
    Tensors own = arguments.read(inputs[0]);
    std::vector<Element> in = elements_of(title, "input", own, n());
    check_alike(title, own[0], output);
    check_count(title, "the output", out.count, in[static_cast<size_t>(rank_)].count);
    Reduction reduction = reduction_of(title, options.reduceOp, output);
    return start(
        OpType::REDUCE_SCATTER, title, own, {outputs}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            return issue_reduce_scatter(in, out, reduction, rank_, comm, slot);
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::_reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                                         const c10d::ReduceScatterOptions &options)
{
    const char *title = "thrum:_reduce_scatter_base";
    Arguments arguments(title);
    at::Tensor own = arguments.read(input);
    Element in = element_of(title, own), out = element_of(title, arguments.written(output));
    Reduction reduction = reduction_of(title, options.reduceOp, output);
    size_t size = n();

    check_alike(title, input, output);
    check_count(title, "the input", in.count, size * out.count);
    return start(
        OpType::_REDUCE_SCATTER_BASE, title, {own}, {{output}}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            return issue_reduce_scatter(in, out, size, reduction, rank_, comm, slot);
        },
        arguments.finish());
}

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
ProcessGroup::WorkPtr
ProcessGroup::allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                              const c10d::AllgatherOptions &options)
{
    const char *title = "thrum:all_gather_into_tensor_coalesced";
    Arguments arguments(title);
    Tensors own = arguments.read(inputs);
    std::vector<Element> in, out;
    size_t size = n();

    TORCH_CHECK_VALUE(inputs.size() == outputs.size(), title, ": ", outputs.size(), " outputs for ",
                      inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); i++) {
        in.push_back(element_of(title, own[i]));
        out.push_back(element_of(title, arguments.written(outputs[i])));
        check_alike(title, inputs[i], outputs[i]);
        check_count(title, "an output", out[i].count, size * in[i].count);
    }
    return start(
        OpType::ALLGATHER_COALESCED, title, own, {outputs}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            thrum_status_t status = THRUM_OK;

            for (size_t i = 0; i < in.size() && !status; i++)
                status = issue_allgather(in[i], out[i], size, comm, slot);
            return status;
        },
        arguments.finish());
}

ProcessGroup::WorkPtr
ProcessGroup::reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                              const c10d::ReduceScatterOptions &options)
{
    const char *title = "thrum:reduce_scatter_tensor_coalesced";
    Arguments arguments(title);
    Tensors own = arguments.read(inputs);
    std::vector<Element> in, out;
    std::vector<Reduction> reductions;
    size_t size = n();

    TORCH_CHECK_VALUE(inputs.size() == outputs.size(), title, ": ", outputs.size(), " outputs for ",
                      inputs.size(), " inputs");
    for (size_t i = 0; i < inputs.size(); i++) {
        in.push_back(element_of(title, own[i]));
        out.push_back(element_of(title, arguments.written(outputs[i])));
        reductions.push_back(reduction_of(title, options.reduceOp, outputs[i]));
        check_alike(title, inputs[i], outputs[i]);
        check_count(title, "an input", in[i].count, size * out[i].count);
    }
    return start(
        OpType::REDUCE_SCATTER, title, own, {outputs}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            thrum_status_t status = THRUM_OK;

            for (size_t i = 0; i < in.size() && !status; i++)
                status =
                    issue_reduce_scatter(in[i], out[i], size, reductions[i], rank_, comm, slot);
            return status;
        },
        arguments.finish());
}
#endif

/* ---- one rank and all others ---- */

namespace
{

/* The root's list, a block like `own` for each rank; nothing at the others. */
std::vector<Element> blocks_of_root(const char *title, const char *argument,
                                    const std::vector<Tensors> &lists, const at::Tensor &own,
                                    int64_t root, int rank, int size)
{
    std::vector<Element> blocks;
    bool is_root = rank == root;

    check_rank(title, "root", root, size);
    TORCH_CHECK_VALUE(lists.size() == is_root, title, ": ", lists.size(), " lists of ", argument,
                      "s at rank ", rank, "; the root, rank ", root, ", has one, the others none");
    if (!is_root)
        return blocks;
    blocks = elements_of(title, argument, lists[0], static_cast<size_t>(size));
    check_alike(title, own, lists[0][0]);
    for (const Element &block : blocks)
        check_count(title, argument, block.count, static_cast<size_t>(own.numel()));
    return blocks;
}

} // namespace

ProcessGroup::WorkPtr ProcessGroup::gather(std::vector<Tensors> &outputs, Tensors &inputs,
                                           const c10d::GatherOptions &options)
{
    const char *title = "thrum:gather";
    Arguments arguments(title);
    at::Tensor input = arguments.read(one_tensor(title, inputs));
    Element in = element_of(title, input);
    std::vector<Tensors> lists;
    for (const Tensors &list : outputs)
        lists.push_back(arguments.written(list));
    std::vector<Element> out =
        blocks_of_root(title, "output", lists, input, options.rootRank, rank_, size_);
    int root = static_cast<int>(options.rootRank);
    size_t size = n();

    return start(
        OpType::GATHER, title, {input}, outputs, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            return by_blocks(
                out, List::Written, in, size, slot, [&](char *to, char *from, size_t count) {
                    return thrum_gather(from, to, count, in.dtype, root, comm, slot.queue);
                });
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                                            const c10d::ScatterOptions &options)
{
    const char *title = "thrum:scatter";
    Arguments arguments(title);
    at::Tensor output = arguments.written(one_tensor(title, outputs));
    Element out = element_of(title, output);
    std::vector<Tensors> lists;
    for (const Tensors &list : inputs)
        lists.push_back(arguments.read(list));
    std::vector<Element> in =
        blocks_of_root(title, "input", lists, output, options.rootRank, rank_, size_);
    int root = static_cast<int>(options.rootRank);
    size_t size = n();

    return start(
        OpType::SCATTER, title, lists.empty() ? Tensors() : lists[0], {outputs}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            return by_blocks(
                in, List::Read, out, size, slot, [&](char *from, char *to, size_t count) {
                    return thrum_scatter(from, to, count, out.dtype, root, comm, slot.queue);
                });
        },
        arguments.finish());
}

/* ---- everybody with everybody ---- */

ProcessGroup::WorkPtr ProcessGroup::alltoall_base(at::Tensor &output, at::Tensor &input,
                                                  std::vector<int64_t> &output_splits,
                                                  std::vector<int64_t> &input_splits,
                                                  const c10d::AllToAllOptions &options)
{
    const char *title = "thrum:all_to_all_single";
    Arguments arguments(title);
    at::Tensor own = arguments.read(input);
    Element in = element_of(title, own), out = element_of(title, arguments.written(output));
    bool even = output_splits.empty() && input_splits.empty();
    Split from = split_of(title, "input", input, input_splits, n());
    Split to = split_of(title, "output", output, output_splits, n());

    check_alike(title, input, output);
    if (even)
        check_count(title, "the output", out.count, in.count);
    TORCH_CHECK_VALUE(!in.count || in.data != out.data, title,
                      ": input and output are the same memory");
    even = even && in.count * in.bytes <= kPieceBytes;
    return start(
        OpType::ALLTOALL_BASE, title, {own}, {{output}}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            if (even)
                return thrum_alltoall(in.data, out.data, from.counts[0], in.dtype, comm,
                                      slot.queue);
            return thrum_alltoallv(in.data, from.counts.data(), from.displs.data(), out.data,
                                   to.counts.data(), to.displs.data(), in.dtype, comm, slot.queue);
        },
        arguments.finish());
}

ProcessGroup::WorkPtr ProcessGroup::alltoall(Tensors &outputs, Tensors &inputs,
                                             const c10d::AllToAllOptions &options)
{
    const char *title = "thrum:all_to_all";
    Arguments arguments(title);
    Tensors sent = arguments.read(inputs);
    std::vector<Element> in = elements_of(title, "input", sent, n());
    std::vector<Element> out = elements_of(title, "output", arguments.written(outputs), n());
    size_t own = static_cast<size_t>(rank_);

    check_alike(title, inputs[0], outputs[0]);
    check_count(title, "the output of the own rank", out[own].count, in[own].count);
    return start(
        OpType::ALLTOALL, title, sent, {outputs}, options.timeout,
        [=](thrum_comm_t comm, Slot &slot) {
            thrum_status_t status =
                slot.copy(out[own].data, in[own].data, in[own].count * in[own].bytes);
            thrum_status_t end;

            if (status)
                return status;
            status = thrum_group_start();
            if (status)
                return status;
            for (size_t r = 0; r < in.size() && !status; r++) {
                if (r == own)
                    continue;
                status = thrum_send(in[r].data, in[r].count, in[r].dtype, static_cast<int>(r), comm,
                                    slot.queue);
                if (!status)
                    status = thrum_recv(out[r].data, out[r].count, out[r].dtype,
                                        static_cast<int>(r), comm, slot.queue);
            }
            end = thrum_group_end();
            return status ? status : end;
        },
        arguments.finish());
}

} // namespace thrum_torch
