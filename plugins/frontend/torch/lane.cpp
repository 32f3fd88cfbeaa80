/* Errors, devices, and lanes: how an operation is issued and its future completed. Called by process_group.cpp. */
#include "backend.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <system_error>

#include <c10/util/Exception.h>

namespace thrum_torch
{

namespace
{

constexpr const char *kPrefix = "thrum: "; /* of all messages */
constexpr size_t kMostSlots = 64; /* operations of a lane in flight; more wait in its backlog */
constexpr Milliseconds kIssuerLingers{200}; /* a thread that has nothing to issue */
constexpr size_t kMostWatchers = 64;
constexpr size_t kNameChars = 47; /* of a communicator; more may be too many for it */
constexpr size_t kKeptScratchBytes = 16u << 20;
constexpr Milliseconds kShortestDeadline{10}, kLongestDeadline{86400000}; /* Thrum's limits */

std::mutex lanes_lock; /* guards the next two */
std::vector<std::weak_ptr<Lane>> lanes;
std::weak_ptr<Device> open_device;

const char *kind_of(thrum_status_t status)
{
    return thrum_status_string(status);
}

} // namespace

/* ---- errors ---- */

void fail(thrum_status_t status, const std::string &message)
{
    std::string text = kPrefix + (message.empty() ? std::string(kind_of(status)) : message);

    switch (status) {
    case THRUM_ERR_INVALID_ARGUMENT:
    case THRUM_ERR_INVALID_POINTER:
    case THRUM_ERR_INVALID_COUNT:
    case THRUM_ERR_INVALID_RANK:
    case THRUM_ERR_INVALID_CONFIG:
        C10_THROW_ERROR(ValueError, text);
    case THRUM_ERR_INVALID_TYPE:
    case THRUM_ERR_INVALID_OP:
        C10_THROW_ERROR(TypeError, text);
    default:
#if TORCH_VERSION_MAJOR >= 2
        C10_THROW_ERROR(DistBackendError, text);
#else
        C10_THROW_ERROR(Error, text);
#endif
    }
}

std::exception_ptr failure(thrum_status_t status, const std::string &message)
{
    try {
        fail(status, message);
    } catch (...) {
        return std::current_exception();
    }
}

std::string text_of(const std::exception &error)
{
    auto torchs = dynamic_cast<const c10::Error *>(&error);
    std::string text = torchs ? torchs->what_without_backtrace() : error.what();

    return text.compare(0, strlen(kPrefix), kPrefix) ? text : text.substr(strlen(kPrefix));
}

/* ---- the device ---- */

Device::Device() : pid(getpid())
{
    thrum_device_properties properties{};
    thrum_status_t status = thrum_device_open(THRUM_DEVICE_ANY, &handle);

    if (status)
        fail(status, thrum_last_error());
    properties.size = sizeof properties;
    pageable = !thrum_device_get_properties(handle, &properties) &&
               properties.capabilities & THRUM_CAP_PAGEABLE;
}

Device::~Device()
{
    if (pid == getpid())
        thrum_device_close(handle);
}

std::shared_ptr<Device> Device::get()
{
    std::lock_guard<std::mutex> lock(lanes_lock);
    std::shared_ptr<Device> device = open_device.lock();

    if (!device || device->pid != getpid()) {
        device.reset(new Device);
        open_device = device;
    }
    return device;
}

char *Slot::need_scratch(size_t bytes)
{
    if (bytes > scratch_bytes) {
        outgrown.push_back(std::move(scratch));
        scratch.reset(new char[bytes]);
        scratch_bytes = bytes;
    }
    return scratch.get();
}

thrum_status_t Slot::copy(void *dst, const void *src, size_t bytes) const
{
    thrum_operand operands[2]{};
    thrum_command command{};

    operands[0].base = reinterpret_cast<uintptr_t>(dst);
    operands[1].base = reinterpret_cast<uintptr_t>(src);
    command.opcode = THRUM_CMD_COPY;
    command.flags = THRUM_CMD_FLAG_HOST;
    command.ndst = command.nsrc = 1;
    command.bytes = bytes;
    command.operands = operands;
    return bytes ? thrum_queue_submit(queue, &command, 1, nullptr) : THRUM_OK;
}

/* ---- lanes: life ---- */

Lane::Lane(LaneOptions options) : options_(std::move(options)), device_(Device::get()) {}

std::shared_ptr<Lane> Lane::make(LaneOptions options)
{
    auto lane = std::make_shared<Lane>(std::move(options));
    std::lock_guard<std::mutex> lock(lanes_lock);

    lanes.erase(std::remove_if(lanes.begin(), lanes.end(),
                               [](const std::weak_ptr<Lane> &other) { return other.expired(); }),
                lanes.end());
    lanes.push_back(lane);
    return lane;
}

Lane::~Lane()
{
    if (issuer_.joinable())
        issuer_.detach();
    for (std::thread &watcher : watchers_)
        watcher.detach();
}

bool Lane::is_foreign() const
{
    return device_->pid != getpid();
}

void Lane::join(const Meet &meet)
{
    const std::string name = options_.name.substr(0, kNameChars);
    thrum_unique_id id = meet(closing_);
    thrum_comm_config config{};
    thrum_status_t status;
    Milliseconds deadline =
        std::min(std::max(options_.timeout, kShortestDeadline), kLongestDeadline);

    config.size = sizeof config;
    config.deadline_ms = config.init_deadline_ms = deadline.count();
    config.scratch_bytes = options_.scratch_bytes;
    config.probes = options_.probes;
    config.name = name.c_str();
    status =
        thrum_comm_init_rank(&id, options_.size, options_.rank, device_->handle, &config, &comm_);
    if (status)
        fail(status, "rank " + std::to_string(options_.rank) + " cannot join " + options_.name +
                         ": " + thrum_last_error());
}

void Lane::join_later(Meet meet)
{
    std::lock_guard<std::mutex> lock(issue_);

    start_issuer(std::move(meet));
    joining_ = issuing_ = issuers_turn_ = true;
}

/* False: it has not come about, and what waited for it has been refused. */
bool Lane::run_join(const Meet &meet)
{
    std::string why;

    try {
        join(meet);
    } catch (const std::exception &error) {
        why = options_.name + ": " + text_of(error);
    }
    if (!why.empty())
        refuse_waiting(why);
    std::lock_guard<std::mutex> lock(issue_);
    joining_ = false;
    issued_.notify_all();
    return why.empty();
}

void Lane::refuse_waiting(const std::string &why)
{
    std::deque<std::pair<WorkRef, Issue>> waiting;

    {
        std::lock_guard<std::mutex> lock(issue_);
        broken_ = why;
        waiting.swap(backlog_);
    }
    for (auto &entry : waiting)
        entry.first->refuse(failure(THRUM_ERR_SYSTEM, entry.first->describe() + ": " + why));
}

void Lane::close(Milliseconds grace)
{
    std::lock_guard<std::mutex> closer(close_);
    Clock::time_point until = Clock::now() + grace;

    if (is_foreign())
        return;
    closing_.store(true);
    {
        std::unique_lock<std::mutex> lock(issue_);
        issued_.wait(lock, [this] { return !joining_; });
        handed_.notify_all();
    }
    for (WorkRef work; (work = unfinished());)
        if (!work->drive(&until)) {
            if (thrum_comm_abort(comm_))
                break;
            until = Clock::now() + kLongestDeadline; /* they end at once */
        }
    if (issuer_.joinable())
        issuer_.join();
    end_watchers();
    std::unique_lock<std::mutex> lock(issue_);
    issued_.wait(lock,
                 [this] { return !issuing_; }); /* what it issued has ended, it has not left */
    thrum_comm_destroy(comm_);
    comm_ = nullptr;
    std::lock_guard<std::mutex> pool(pool_);
    for (auto &slot : slots_)
        thrum_queue_destroy(slot->queue);
    slots_.clear();
    free_.clear();
}

void Lane::close_all(Milliseconds grace)
{
    std::vector<std::weak_ptr<Lane>> all;

    {
        std::lock_guard<std::mutex> lock(lanes_lock);
        all.swap(lanes);
    }
    for (const auto &weak : all)
        if (std::shared_ptr<Lane> lane = weak.lock())
            lane->close(grace);
}

/* ---- lanes: issuing ---- */

/* With the whole name in front, of which the communicator keeps a part only. */
std::string Lane::named(const std::string &message) const
{
    std::string kept = options_.name.substr(0, kNameChars) + ": ";
    bool has_it = !message.compare(0, kept.size(), kept);

    return options_.name + ": " + (has_it ? message.substr(kept.size()) : message);
}

/* The communicator's own account of a failure, which is more than the queue's. */
thrum_status_t Lane::cause(thrum_status_t status, std::string *message) const
{
    thrum_status_t first = THRUM_OK;
    const char *text = nullptr;

    if (!comm_ || thrum_comm_async_error(comm_, &first, &text) || !first)
        return status;
    if (text)
        *message = text;
    return first;
}

std::string Lane::trouble()
{
    std::unique_lock<std::mutex> lock(issue_, std::try_to_lock); /* or the next time */
    std::string message;

    return lock && cause(THRUM_OK, &message) ? named(message) : "";
}

bool Lane::has_message()
{
    std::unique_lock<std::mutex> lock(issue_, std::try_to_lock); /* or the next time */
    int has = 0;
    thrum_status_t status;

    if (!lock)
        return false;
    if (!broken_.empty())
        fail(THRUM_ERR_SYSTEM, broken_);
    if (issuing_ || !comm_ || !backlog_.empty()) /* receives in it come first */
        return false;
    status = thrum_probe(0, comm_, &has);
    if (status) {
        std::string message = thrum_last_error();
        status = cause(status, &message);
        fail(status, named(message));
    }
    return has;
}

Slot *Lane::new_slot()
{
    auto slot = std::make_unique<Slot>();
    thrum_status_t status = thrum_queue_create(device_->handle, THRUM_QUEUE_DIRECT, &slot->queue);

    if (status)
        fail(status, thrum_last_error());
    slot->device = device_.get();
    slots_.push_back(std::move(slot));
    return slots_.back().get();
}

/* Newest first: the communicator knows the last queue. NULL: all are in use. By who is issuing, as what follows. */
Slot *Lane::take_slot()
{
    std::lock_guard<std::mutex> lock(pool_);
    Slot *slot;

    try {
        if (free_.empty() && slots_.size() < kMostSlots)
            free_.push_back(new_slot());
    } catch (const std::exception &) {
        if (slots_.empty())
            throw; /* otherwise those that there are have to do */
    }
    if (free_.empty())
        return nullptr;
    slot = free_.back();
    free_.pop_back();
    return slot;
}

void Lane::give_slot(Slot *slot)
{
    std::lock_guard<std::mutex> lock(pool_);

    slot->outgrown.clear();
    if (slot->scratch_bytes > kKeptScratchBytes) {
        slot->scratch.reset();
        slot->scratch_bytes = 0;
    }
    free_.push_back(slot);
}

WorkRef Lane::oldest()
{
    std::lock_guard<std::mutex> lock(pool_);

    return inflight_.empty() ? WorkRef() : inflight_.front();
}

/* What has been submitted and has not ended, NULL if there is nothing. */
WorkRef Lane::unfinished()
{
    std::unique_lock<std::mutex> lock(issue_); /* what leaves backlog_ is in flight */

    /* who has issued one that has ended takes it out */
    issued_.wait(lock, [this] { return backlog_.empty() || !backlog_.front().first->is_done(); });
    WorkRef work = oldest();

    return work || backlog_.empty() ? work : backlog_.front().first;
}

void Lane::forget(const Work *work)
{
    WorkRef dropped; /* after the lock */
    std::lock_guard<std::mutex> lock(pool_);

    for (auto it = inflight_.begin(); it != inflight_.end(); ++it)
        if (it->get() == work) {
            dropped = std::move(*it);
            inflight_.erase(it);
            return;
        }
}

/* Works that nobody waits for end here. */
void Lane::reap()
{
    for (WorkRef work; (work = oldest()) && work->poll();)
        ;
}

/*
 * It will not be issued, or no further. The communicator is aborted if others wait for it in vain: part of it may be on
 * the queue.
 */
void Lane::drop_issue(Work &work, bool others_wait)
{
    Slot *slot = work.slot_;

    if (others_wait || (slot && thrum_queue_query(slot->queue) == THRUM_IN_PROGRESS))
        (void)!thrum_comm_abort(comm_);
    if (!slot)
        return;
    (void)!thrum_queue_synchronize(slot->queue);
    work.slot_ = nullptr;
    give_slot(slot);
}

void Lane::fail_issue(thrum_status_t status, Work &work)
{
    std::string message = thrum_last_error();

    status = cause(status, &message);
    drop_issue(work, status <= THRUM_ERR_UNSUPPORTED);
    fail(status, work.describe() + ": " + named(message));
}

/* False: there is no room for it, or what it has on its queue has to end first. */
bool Lane::issue(const WorkRef &work, const Issue &issue)
{
    thrum_status_t status;

    try {
        if (!work->slot_)
            work->slot_ = take_slot();
        if (!work->slot_)
            return false;
        status = issue(comm_, *work->slot_);
    } catch (const c10::ValueError &) { /* of arguments: other ranks throw it, too */
        drop_issue(*work, false);
        throw;
    } catch (const std::exception &error) {
        drop_issue(*work, true);
        fail(THRUM_ERR_SYSTEM, work->describe() + ": " + text_of(error));
    }
    if (status == THRUM_IN_PROGRESS)
        return false;
    if (status)
        fail_issue(status, *work);
    {
        std::lock_guard<std::mutex> lock(pool_);
        inflight_.push_back(work);
    }
    work->issued_.store(true, std::memory_order_release);
    return true;
}

void Lane::keep(const WorkRef &work, Issue call)
{
    std::lock_guard<std::mutex> lock(issue_);

    if (closing_.load() || is_foreign())
        fail(THRUM_ERR_INVALID_USAGE, options_.name + " has been destroyed");
    work->lane_ = shared_from_this();
    work->number_ = ++number_;
    if (!broken_.empty())
        fail(THRUM_ERR_SYSTEM, work->describe() + ": " + broken_);
    backlog_.emplace_back(work, std::move(call));
    if (work->finish_)
        (void)watch(
            work); /* it has not ended before somebody has called that: without a thread whoever waits */
}

/*
 * The oldest of the backlog, by who is issuing; `lock`, of issue_, is not held meanwhile. False: there is no room for it,
 * or what it has on its queue has to end first. What is wrong with it goes to *wrong_out, and to those who wait for it.
 */
bool Lane::issue_next(std::unique_lock<std::mutex> &lock, std::exception_ptr *wrong_out)
{
    WorkRef work = backlog_.front().first;
    const Issue &call = backlog_.front().second; /* it stays where it is while others come */
    thrum_status_t status = THRUM_OK;
    bool issued = true;

    lock.unlock();
    try {
        if (work->slot_) /* it has begun */
            status = thrum_queue_synchronize(work->slot_->queue);
        if (status)
            fail_issue(status, *work);
        reap();
        issued = issue(work, call);
    } catch (...) {
        *wrong_out = std::current_exception();
        work->refuse(*wrong_out);
    }
    lock.lock();
    if (issued)
        backlog_.pop_front();
    issued_.notify_all();
    return issued;
}

void Lane::issue_kept(const Work *own)
{
    std::unique_lock<std::mutex> lock(issue_);
    std::exception_ptr wrong;

    if (issuing_)
        return;
    issuing_ = true;
    while (!backlog_.empty()) {
        std::exception_ptr refusal;
        bool is_own = backlog_.front().first.get() == own;

        if (!is_own && (reap(), oldest())) /* it might wait for what is in flight */
            break;
        if (!issue_next(lock, &refusal))
            break;
        if (is_own)
            wrong = refusal;
    }
    if (backlog_.empty())
        end_turn();
    else
        hand_over(lock);
    if (wrong)
        std::rethrow_exception(wrong);
}

void Lane::submit(const WorkRef &work, Issue call)
{
    keep(work, std::move(call));
    issue_kept(work.get());
}

/* ---- lanes: the backlog ---- */

/*
 * The issuer is a thread that issues, in order, what could not be issued when it was submitted. It ends when nothing more has come
 * for a while: most lanes need it for joining only, or never. Under issue_. Throws if there can be no more threads.
 */
void Lane::start_issuer(Meet meet)
{
    if (issuer_.joinable())
        issuer_.join(); /* it has no more to do than to end */
    try {
        issuer_ = std::thread(
            [lane = shared_from_this(), meet = std::move(meet)] { lane->run_issuer(meet); });
    } catch (const std::system_error &error) {
        fail(THRUM_ERR_SYSTEM, options_.name + ": no thread can be started: " + error.what());
    }
    issuer_runs_ = true;
}

/* Under issue_, as what follows. */
void Lane::end_turn()
{
    issuing_ = issuers_turn_ = false;
    issued_.notify_all();
}

/* Who is issuing leaves the rest of the backlog to the issuer; it does it itself if there can be no more threads. */
void Lane::hand_over(std::unique_lock<std::mutex> &lock)
{
    issuers_turn_ = true;
    if (issuer_runs_) {
        handed_.notify_one();
        return;
    }
    try {
        start_issuer(nullptr);
    } catch (const std::exception &) {
        issue_backlog(lock);
        end_turn();
    }
}

void Lane::run_issuer(const Meet &meet)
{
    bool joined = !meet || run_join(meet);
    std::unique_lock<std::mutex> lock(issue_);

    while (issuers_turn_) {
        if (joined)
            issue_backlog(lock);
        end_turn();
        if (joined)
            handed_.wait_for(lock, kIssuerLingers,
                             [this] { return issuers_turn_ || closing_.load(); });
    }
    issuer_runs_ = false;
}

/* `lock`, of issue_, is not held while waiting. */
void Lane::issue_backlog(std::unique_lock<std::mutex> &lock)
{
    while (!backlog_.empty()) {
        std::exception_ptr wrong;

        if (issue_next(lock, &wrong) || backlog_.front().first->slot_)
            continue;
        lock.unlock();
        if (WorkRef work = oldest())
            work->drive(nullptr);
        lock.lock();
    }
}

/* ---- lanes: futures ---- */

/*
 * Futures are completed by threads of the lane, the watchers, in issue order. What a future calls may wait for another
 * one, so there is always a watcher that is not in such a call while futures are waiting.
 */
/* False: there is no thread that could, nor will be. */
bool Lane::watch(const WorkRef &work)
{
    std::lock_guard<std::mutex> lock(watch_);

    if (in_callbacks_ == watchers_.size() && !add_watcher() && watchers_.empty())
        return false;
    watched_.push_back(work);
    watched_arrived_.notify_one();
    return true;
}

/* Under watch_. */
bool Lane::add_watcher()
{
    if (watchers_.size() == kMostWatchers)
        return false;
    try {
        watchers_.emplace_back([lane = shared_from_this()] { lane->run_watcher(); });
        return true;
    } catch (const std::system_error &) { /* no more threads */
        return false;
    }
}

void Lane::run_watcher()
{
    std::unique_lock<std::mutex> lock(watch_);

    for (;;) {
        watched_arrived_.wait(lock, [this] { return !watched_.empty() || watch_closing_; });
        if (watched_.empty())
            return;
        WorkRef work = std::move(watched_.front());
        watched_.pop_front();
        lock.unlock();
        work->drive(nullptr);
        lock.lock();
        if (++in_callbacks_ == watchers_.size() && !watched_.empty())
            (void)add_watcher();
        lock.unlock();
        work->complete_future();
        work.reset();
        lock.lock();
        in_callbacks_--;
    }
}

void Lane::end_watchers()
{
    std::vector<std::thread> watchers;

    {
        std::lock_guard<std::mutex> lock(watch_);
        watch_closing_ = true;
        watchers.swap(watchers_);
    }
    watched_arrived_.notify_all();
    for (std::thread &watcher : watchers)
        if (watcher.get_id() == std::this_thread::get_id())
            watcher.detach(); /* a future dropped the process group */
        else
            watcher.join();
}

} // namespace thrum_torch
