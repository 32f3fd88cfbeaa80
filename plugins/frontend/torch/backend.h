/*
 * The c10d backend "thrum" for PyTorch: what its files share.
 *
 * A Lane is a Thrum communicator as torch uses it: any thread issues, operations end on their own, whoever waits helps. A
 * process group has one lane for its collectives, and one for each sender, receiver and tag that it has used, since the
 * operations of a communicator run one after the other and torch lets messages pass each other. A Work is one
 * operation. Operations run on a queue of their own, a Slot, so that a queue says exactly how its operation ended. An
 * Inbox is what a rank receives under one tag, where receives from any source wait for their sender.
 *
 * lane.cpp: devices, lanes; work.cpp: works; join.cpp: how the ranks of a lane meet; tensors.cpp: tensors and
 * reductions in Thrum's words; collectives.cpp: torch's collectives as Thrum's; sparse.cpp: sparse tensors; messages.cpp: send and
 * receive, inboxes; process_group.cpp: the process group otherwise; module.cpp: what Python sees.
 *
 * Torch 1.13 calls backends ProcessGroup; from 2.0 on they are Backend, with the same functions.
 */
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <torch/version.h>
#if TORCH_VERSION_MAJOR >= 2
#include <torch/csrc/distributed/c10d/Backend.hpp>
#else
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#endif
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <thrum/thrum.h>

namespace thrum_torch
{

#if TORCH_VERSION_MAJOR >= 2
using BackendBase = c10d::Backend;
#else
using BackendBase = c10d::ProcessGroup;
#endif
using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;
using Tensors = std::vector<at::Tensor>;
using StoreRef = c10::intrusive_ptr<c10d::Store>;

class Inbox;
class Lane;
class Work;
using WorkRef = c10::intrusive_ptr<Work>;

/* Throws what Python shows as ValueError, TypeError, or RuntimeError (from torch 2 on DistBackendError). */
[[noreturn]] void fail(thrum_status_t status, const std::string &message);
std::exception_ptr failure(thrum_status_t status, const std::string &message);
/* What it says, without what `fail` and torch put around it. */
std::string text_of(const std::exception &error);

/* The process's device, which all its lanes share: opened with the first and closed with the last. */
class Device
{
  public:
    static std::shared_ptr<Device> get();
    ~Device();
    thrum_device_t handle = nullptr;
    bool pageable = false; /* commands reach the memory of tensors */
    const int pid; /* of the process that opened it: a child has none of its threads */

  private:
    Device();
};

/* A queue for one operation at a time, and host memory for what is gathered before and handed out after it. */
struct Slot {
    thrum_queue_t queue = nullptr;
    const Device *device = nullptr;
    std::unique_ptr<char[]> scratch;
    size_t scratch_bytes = 0;
    std::vector<std::unique_ptr<char[]>> outgrown; /* what is on the queue may still use them */

    char *need_scratch(size_t bytes);
    thrum_status_t copy(void *dst, const void *src, size_t bytes) const;
};

/* What puts an operation on the slot's queue. THRUM_IN_PROGRESS: call it again when all that is on the queue has ended. */
using Issue = std::function<thrum_status_t(thrum_comm_t, Slot &)>;

/* One operation. */
class Work : public c10d::Work
{
  public:
    /* `finish`, unless empty, is called when the operation has succeeded, before anybody sees that. */
    Work(int rank, c10d::OpType type, const char *title, Tensors inputs,
         std::vector<Tensors> outputs, Milliseconds timeout, std::function<void()> finish);
    bool isCompleted() override;
    bool wait(Milliseconds timeout) override;
    int sourceRank() const override;
    Tensors result() override;
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

  private:
    friend class Inbox;
    friend class Lane;
    WorkRef self();
    bool is_done() const { return done_.load(std::memory_order_acquire); }
    /* True once it has ended. The calling thread executes; `until` NULL: as long as it takes. */
    bool drive(const Clock::time_point *until);
    bool poll();
    bool await_issue(const Clock::time_point *until);
    std::exception_ptr call_finish();
    bool settle(thrum_status_t status, std::unique_lock<std::timed_mutex> &lock);
    void end(std::exception_ptr exception, std::unique_lock<std::timed_mutex> &lock);
    void refuse(std::exception_ptr exception); /* it was never issued */
    void leave_inbox(Lane &lane); /* for its lane, or refused; `lane` completes its future */
    void complete_future();
    std::string describe() const;

    const char *const title_;
    const Milliseconds timeout_; /* of this call; 0: none but the lane's */
    const Clock::time_point begun_;
    std::shared_ptr<Inbox> inbox_; /* where it waits for its turn first; set before others see it */
    std::atomic<bool> waits_in_inbox_{false};
    std::shared_ptr<Lane> lane_; /* set once, by Lane::keep, before it has left the inbox */
    uint64_t number_ = 0; /* on its lane */
    std::atomic<int> source_{-1}; /* of a receive; -1: not known yet */
    const std::vector<Tensors> outputs_;
    std::atomic<bool> done_{false};
    std::atomic<bool> issued_{false};
    std::timed_mutex
        drive_; /* whoever has it waits for the queue and ends the work; guards what follows */
    Slot *slot_ = nullptr; /* until issued_ the issuing thread's */
    std::function<void()> finish_;
    bool expired_ = false; /* the deadline of the lane has passed */
    Tensors inputs_; /* kept while Thrum uses them */
    bool future_completed_ =
        false; /* mutex_ of the base, as future_, and changes of waits_in_inbox_ */
    c10::intrusive_ptr<c10::ivalue::Future> future_;

    friend class ProcessGroup;
};

/* What a lane joins. */
struct LaneOptions {
    std::string name; /* in messages */
    int rank = 0, size = 1;
    Milliseconds timeout{0};
    uint64_t scratch_bytes = 0; /* 0: Thrum's default */
    bool probes = false; /* has_message is called */
};

/*
 * A communicator. Locks, in the order in which they may be taken: issue_, a work's drive_, pool_, watch_. Nobody calls
 * Python or drops a tensor's last reference while holding one but issue_.
 */
class Lane : public std::enable_shared_from_this<Lane>
{
  public:
    static std::shared_ptr<Lane> make(LaneOptions options);
    explicit Lane(LaneOptions options); /* for make */
    ~Lane();
    /* Blocks until all ranks have joined by the id that `meet` gives. */
    using Meet = std::function<thrum_unique_id(const std::atomic<bool> &closing)>;
    void join(const Meet &meet);
    /* The same on a thread of its own; operations are kept until then. */
    void join_later(Meet meet);
    /*
     * Issues, or keeps it until the lane has joined and there is room for it. Throws what is wrong with the call; the work is
     * then void.
     */
    void submit(const WorkRef &work, Issue issue);
    /*
     * The two halves of submit. keep gives the work its place behind those that were kept before; it never waits, and throws
     * when there can be no more works. issue_kept issues what is kept, unless somebody is at it, who then goes on: `own`, NULL
     * for none, in this call, whatever it waits for; others only as long as they cannot wait for another rank, the issuer does
     * the rest. Throws what is wrong with `own`.
     */
    void keep(const WorkRef &work, Issue issue);
    void issue_kept(const Work *own);
    /* Ends everything: gives what is in flight `grace` to end by itself, then aborts. */
    void close(Milliseconds grace);
    /* Every lane of the process, before the interpreter goes. */
    static void close_all(Milliseconds grace);
    bool is_foreign() const; /* in a child of the process that made it */
    const std::string &name() const { return options_.name; }
    /* Why the communicator has failed; empty if it has not. */
    std::string trouble();
    /*
     * Of a lane of messages, at its receiver: whether there is one that no receive has been submitted for. Throws if there
     * can be no more.
     */
    bool has_message();

  private:
    friend class Inbox;
    friend class Work;
    bool issue(const WorkRef &work, const Issue &issue);
    Slot *take_slot();
    Slot *new_slot();
    void give_slot(Slot *slot);
    void reap();
    void forget(const Work *work);
    WorkRef oldest();
    WorkRef unfinished();
    bool issue_next(std::unique_lock<std::mutex> &lock, std::exception_ptr *wrong_out);
    void start_issuer(Meet meet);
    void end_turn();
    void hand_over(std::unique_lock<std::mutex> &lock);
    void run_issuer(const Meet &meet);
    bool run_join(const Meet &meet);
    void issue_backlog(std::unique_lock<std::mutex> &lock);
    void refuse_waiting(const std::string &why);
    void drop_issue(Work &work, bool others_wait);
    [[noreturn]] void fail_issue(thrum_status_t status, Work &work);
    thrum_status_t cause(thrum_status_t status, std::string *message) const;
    std::string named(const std::string &message) const;
    bool watch(const WorkRef &work);
    bool add_watcher();
    void run_watcher();
    void end_watchers();

    const LaneOptions options_;
    std::shared_ptr<Device> device_;
    thrum_comm_t comm_ = nullptr; /* written by join, freed by close */

    std::mutex issue_; /* guards the next ten; nobody waits for another rank with it */
    std::condition_variable issued_; /* something left backlog_, joining_ or issuing_ has ended */
    std::condition_variable handed_; /* issuers_turn_ has begun, or closing_ */
    std::deque<std::pair<WorkRef, Issue>> backlog_; /* not issued yet, in order */
    bool joining_ = false;
    std::string broken_; /* why it could not be joined */
    uint64_t number_ = 0;
    bool issuing_ = false; /* one thread is in the communicator, and looks after backlog_ */
    bool issuers_turn_ = false; /* it is issuer_ */
    bool issuer_runs_ = false; /* issuer_ waits for its turn, or has it */
    std::thread issuer_;
    std::atomic<bool> closing_{false};
    std::mutex close_; /* one thread closes, the others wait for it */

    std::mutex pool_; /* guards the next three */
    std::vector<std::unique_ptr<Slot>> slots_;
    std::vector<Slot *> free_;
    std::deque<WorkRef> inflight_; /* in issue order */

    std::mutex watch_; /* guards the rest */
    std::condition_variable watched_arrived_;
    std::deque<WorkRef> watched_; /* have futures that somebody must complete */
    std::vector<std::thread> watchers_;
    size_t in_callbacks_ = 0; /* watchers that complete a future, which may call anything */
    bool watch_closing_ = false;
};

/* ---- how the ranks of a lane meet (join.cpp) ---- */

/* Rank 0 makes the id and leaves it, or why it could not, in the store. */
thrum_unique_id meet_by_store(const StoreRef &store, int rank, Milliseconds timeout);
/* Two ranks of a group of which one may come much later. */
struct Pair {
    StoreRef store;
    std::string prefix; /* of their keys */
    int rank, peer; /* in the pair, 0 or 1; of the other one in the group */
    Milliseconds timeout;
    std::shared_ptr<Lane> group;
};
/* As meet_by_store; gives up when `closing`, and when the group has failed. */
thrum_unique_id meet_pair_by_store(const Pair &pair, const std::atomic<bool> &closing);
/* What a launcher other than torchrun says of this process; size 0: there is none. */
std::tuple<int, int, int> launched();
/* `bytes` of rank 0, on every rank of the launcher's job. */
std::string spread(const std::string &bytes);

/* ---- tensors (tensors.cpp) ---- */

/* The memory of a tensor in Thrum's words. */
struct Element {
    char *data; /* never NULL */
    size_t count;
    thrum_datatype_t dtype; /* for moving; as wide as the tensor's */
    size_t bytes; /* of an element */
};

/* A reduction in Thrum's words. */
struct Reduction {
    thrum_redop_t op;
    thrum_datatype_t dtype; /* of the tensor's elements in it */
    bool scaled = false; /* each rank's contribution first by `factor` */
    alignas(16) char factor[16] = {}; /* an element */
};

/*
 * The tensors of a call as Thrum takes them, dense rows one after the other: the caller's own where they lie so, else copies
 * of them, of which those that the call writes are copied back by `finish`.
 */
class Arguments
{
  public:
    explicit Arguments(const char *title) : title_(title) {}
    at::Tensor read(const at::Tensor &tensor) const;
    Tensors read(const Tensors &tensors) const;
    at::Tensor written(const at::Tensor &tensor);
    Tensors written(const Tensors &tensors);
    std::function<void()> finish(); /* empty if there is nothing to copy; once */

  private:
    const char *const title_;
    std::vector<std::pair<at::Tensor, at::Tensor>> copies_; /* caller's, own */
};

/* Throws where a tensor is none that can be sent; `title` is the call. */
Element element_of(const char *title, const at::Tensor &tensor);
const at::Tensor &one_tensor(const char *title, const Tensors &tensors);
/* All alike in type and number of elements. `n`: how many there have to be. */
std::vector<Element> elements_of(const char *title, const char *argument, const Tensors &tensors,
                                 size_t n);
void check_alike(const char *title, const at::Tensor &a, const at::Tensor &b);
void check_rank(const char *title, const char *argument, int64_t rank, int size);
Reduction reduction_of(const char *title, const c10d::ReduceOp &op, const at::Tensor &tensor);
/* first <- first op other, on this rank alone. */
void fold_locally(const char *title, const c10d::ReduceOp &op, at::Tensor &first,
                  const at::Tensor &other);
/* A tensor may be larger than the memory that stands for it on the device. */
constexpr size_t kPieceBytes = 256u << 20;
thrum_status_t in_pieces(const Element &element,
                         const std::function<thrum_status_t(char *, size_t)> &call);

/* To blocks of any sizes (collectives.cpp). */
thrum_status_t issue_allgather(const Element &in, const std::vector<Element> &out,
                               thrum_comm_t comm, Slot &slot);

/* ---- messages (messages.cpp) ---- */

/* What all messages of a process group have in common. */
struct MessageGroup {
    StoreRef store;
    std::string name;
    int rank = 0, size = 0;
    Milliseconds timeout{0};
    std::shared_ptr<Lane> lane; /* of the group */
};

/*
 * What a rank receives under one tag: a lane for each sender, and the receives that wait here for their turn: those from
 * any source until somebody has sent, and whatever was called behind them, since messages are given to receives in the
 * order of the calls. Lanes are asked whether there is a message that nobody has asked for; senders without a lane are found
 * by the store. Whoever waits looks, and a thread does while receives wait here.
 */
class Inbox : public std::enable_shared_from_this<Inbox>
{
  public:
    static std::shared_ptr<Inbox> make(MessageGroup group, int tag);
    Inbox(MessageGroup group, int tag); /* for make */
    ~Inbox();
    /* As Lane::submit. `source` -1: any. */
    void receive(const WorkRef &work, int source, Issue issue);
    /* True once it has left the inbox, or has ended there. `until` NULL: as long as it takes. */
    bool await(const Work &work, const Clock::time_point *until);
    /* Refuses what waits; nothing can be received any more. */
    void stop();
    /* Every inbox of the process. */
    static void stop_all();
    std::vector<std::shared_ptr<Lane>> lanes();
    std::string where() const;

  private:
    struct Waiting {
        WorkRef work;
        int source;
        Issue issue;
        std::exception_ptr refusal; /* when it has left */
    };
    using Left = std::vector<Waiting>;

    Lane &lane_of(int source);
    int find_sender();
    Lane &give(int source, const WorkRef &work, Issue issue);
    void match(Left *left);
    void refuse_overdue(Left *left);
    void refuse_all(thrum_status_t status, const std::string &why, Left *left);
    void settle(Left left);
    void start();
    void run();
    void discover();
    std::exception_ptr refusal(thrum_status_t status, const Waiting &entry,
                               const std::string &why) const;

    const MessageGroup group_;
    const int tag_;
    /* Guards the rest but for what is the thread's. Before issue_ of a lane; nobody issues with it. */
    std::mutex lock_;
    std::map<int, std::shared_ptr<Lane>> lanes_; /* by sender */
    int last_ = -1; /* sender that was given a receive from any source */
    std::deque<Waiting> waiting_; /* in the order of calls; the first is from any source */
    std::condition_variable arrived_; /* something came to waiting_, or stopping_ */
    bool running_ = false; /* thread_ looks after waiting_ */
    bool stopping_ = false;
    std::thread thread_;
    int64_t discovered_ = 0; /* the thread's: senders that the store had */
    std::string undiscovered_; /* why the store has no more to say */
};

/* The lane for messages of one sender to one receiver under one tag; joined when both have opened it. */
std::shared_ptr<Lane> open_channel(const MessageGroup &group, int from, int to, int tag);

/* ---- process groups ---- */

class ProcessGroup : public BackendBase
{
  public:
    ProcessGroup(const StoreRef &store, int rank, int size, Milliseconds timeout,
                 const std::string &name, std::vector<int64_t> global_ranks);
    ~ProcessGroup() override;

    const std::string getBackendName() const override { return "thrum"; }
    using WorkPtr = c10::intrusive_ptr<c10d::Work>;
    WorkPtr broadcast(Tensors &tensors, const c10d::BroadcastOptions &options) override;
    WorkPtr allreduce(Tensors &tensors, const c10d::AllreduceOptions &options) override;
    WorkPtr allreduce_coalesced(Tensors &tensors,
                                const c10d::AllreduceCoalescedOptions &options) override;
    WorkPtr reduce(Tensors &tensors, const c10d::ReduceOptions &options) override;
    WorkPtr allgather(std::vector<Tensors> &outputs, Tensors &inputs,
                      const c10d::AllgatherOptions &options) override;
    WorkPtr _allgather_base(at::Tensor &output, at::Tensor &input,
                            const c10d::AllgatherOptions &options) override;
    WorkPtr allgather_coalesced(std::vector<Tensors> &outputs, Tensors &inputs,
                                const c10d::AllgatherOptions &options) override;
    WorkPtr gather(std::vector<Tensors> &outputs, Tensors &inputs,
                   const c10d::GatherOptions &options) override;
    WorkPtr scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                    const c10d::ScatterOptions &options) override;
    WorkPtr reduce_scatter(Tensors &outputs, std::vector<Tensors> &inputs,
                           const c10d::ReduceScatterOptions &options) override;
    WorkPtr _reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                 const c10d::ReduceScatterOptions &options) override;
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 1)
    WorkPtr allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                            const c10d::AllgatherOptions &options) override;
    WorkPtr reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                            const c10d::ReduceScatterOptions &options) override;
#endif
    WorkPtr alltoall_base(at::Tensor &output, at::Tensor &input,
                          std::vector<int64_t> &output_splits, std::vector<int64_t> &input_splits,
                          const c10d::AllToAllOptions &options) override;
    WorkPtr alltoall(Tensors &outputs, Tensors &inputs,
                     const c10d::AllToAllOptions &options) override;
    WorkPtr barrier(const c10d::BarrierOptions &options) override;
    void monitoredBarrier(const c10d::BarrierOptions &options, bool wait_all_ranks) override;
    WorkPtr send(Tensors &tensors, int peer, int tag) override;
    WorkPtr recv(Tensors &tensors, int peer, int tag) override;
    WorkPtr recvAnysource(Tensors &tensors, int tag) override;
    void setSequenceNumberForGroup() override {}
    uint64_t getSequenceNumberForGroup() override
    {
        return sequence_.load();
    }
    void close(Milliseconds grace);

  private:
    WorkPtr start(c10d::OpType type, const char *title, Tensors inputs,
                  std::vector<Tensors> outputs, Milliseconds timeout, Issue issue,
                  std::function<void()> finish);
    WorkPtr allreduce_sparse(const at::Tensor &tensor, const c10d::AllreduceOptions &options);
    WorkPtr start_receive(const char *title, Tensors &tensors, int source, int tag);
    std::shared_ptr<Lane> channel(int to, int tag);
    std::shared_ptr<Inbox> inbox(int tag);
    size_t n() const
    {
        return static_cast<size_t>(size_);
    }

    const StoreRef store_;
    const Milliseconds timeout_;
    const std::string name_;
    std::shared_ptr<Lane> lane_;
    std::atomic<uint64_t> sequence_{0}; /* collectives so far */
    std::atomic<uint64_t> monitored_{0}; /* monitored barriers so far */
    MessageGroup messages_; /* fixed */
    std::mutex messages_lock_; /* guards the rest */
    std::map<std::pair<int, int>, std::shared_ptr<Lane>> channels_; /* by receiver and tag */
    std::map<int, std::shared_ptr<Inbox>> inboxes_; /* by tag */
};

} // namespace thrum_torch
