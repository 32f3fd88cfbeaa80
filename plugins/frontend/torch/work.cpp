/* Works: how an operation is waited for, and ends. Called by torch and lane.cpp. */
#include "backend.h"

#include <algorithm>
#include <cstring>

#include <c10/util/Exception.h>

namespace thrum_torch
{

Work::Work(int rank, c10d::OpType type, const char *title, Tensors inputs,
           std::vector<Tensors> outputs, Milliseconds timeout, std::function<void()> finish)
    : c10d::Work(rank, type, title, inputs), title_(title),
      timeout_(std::max(timeout, Milliseconds(0))), begun_(Clock::now()),
      outputs_(std::move(outputs)), finish_(std::move(finish)), inputs_(std::move(inputs))
{
}

WorkRef Work::self()
{
    return WorkRef::unsafe_reclaim_from_nonowning(this);
}

std::string Work::describe() const
{
    std::string number = waits_in_inbox_.load() ? "" : " #" + std::to_string(number_);

    /* titles are "thrum:all_reduce" for the profiler */
    return std::string(strchr(title_, ':') + 1) + number + " of rank " + std::to_string(rank_);
}

bool Work::await_issue(const Clock::time_point *until)
{
    std::unique_lock<std::mutex> lock(lane_->issue_);
    auto ready = [this] { return issued_.load() || is_done(); };

    if (!until)
        lane_->issued_.wait(lock, ready);
    else
        lane_->issued_.wait_until(lock, *until, ready);
    return ready();
}

bool Work::drive(const Clock::time_point *until)
{
    std::unique_lock<std::timed_mutex> lock(drive_, std::defer_lock);
    int64_t left_ns = -1;

    if (is_done())
        return true;
    if (!issued_.load(std::memory_order_acquire) && !await_issue(until))
        return false;
    if (until ? !lock.try_lock_until(*until) : (lock.lock(), false))
        return is_done();
    if (is_done())
        return true;
    do {
        if (until)
            left_ns = std::max<int64_t>(
                0, std::chrono::duration_cast<std::chrono::nanoseconds>(*until - Clock::now())
                       .count());
        if (settle(thrum_queue_synchronize_for(slot_->queue, left_ns), lock))
            return true;
    } while (!until || Clock::now() < *until);
    return false;
}

bool Work::poll()
{
    std::unique_lock<std::timed_mutex> lock(drive_, std::defer_lock);
    thrum_status_t status;

    if (is_done())
        return true;
    if (!issued_.load(std::memory_order_acquire) || !lock.try_lock())
        return false;
    if (is_done())
        return true;
    status = thrum_queue_query(slot_->queue);
    return status != THRUM_IN_PROGRESS && settle(status, lock);
}

/*
 * What the queue says. TIMEOUT may be the waiting's, or the operation's, which the queue says once, and which may have
 * copies behind it.
 */
bool Work::settle(thrum_status_t status, std::unique_lock<std::timed_mutex> &lock)
{
    std::string message = status ? thrum_last_error() : "";

    if (status == THRUM_ERR_TIMEOUT) {
        expired_ |= lane_->cause(THRUM_OK, &message) == THRUM_ERR_TIMEOUT;
        status = thrum_queue_query(slot_->queue);
        if (status == THRUM_IN_PROGRESS)
            return false;
    }
    if (status || expired_) {
        status = lane_->cause(status, &message);
        end(failure(status, describe() + ": " + lane_->named(message)), lock);
    } else {
        end(call_finish(), lock);
    }
    return true;
}

std::exception_ptr Work::call_finish()
{
    try {
        if (finish_)
            finish_();
        return nullptr;
    } catch (const std::exception &error) {
        return failure(THRUM_ERR_SYSTEM, describe() + ": " + text_of(error));
    }
}

void Work::end(std::exception_ptr exception, std::unique_lock<std::timed_mutex> &lock)
{
    WorkRef keep = self();
    Tensors inputs = std::move(inputs_); /* dropped after the locks */
    std::function<void()> last = std::move(finish_);

    inputs_.clear();
    finish_ = nullptr;
    if (slot_)
        lane_->give_slot(slot_);
    slot_ = nullptr;
    finish(std::move(exception));
    done_.store(true, std::memory_order_release);
    lock.unlock();
    if (lane_)
        lane_->forget(this);
}

void Work::refuse(std::exception_ptr exception)
{
    std::unique_lock<std::timed_mutex> lock(drive_);

    if (!is_done())
        end(std::move(exception), lock);
}

void Work::leave_inbox(Lane &lane)
{
    bool is_awaited;

    {
        std::lock_guard<std::mutex> lock(mutex_);
        waits_in_inbox_.store(false, std::memory_order_release);
        is_awaited = future_ && !future_completed_;
    }
    if (is_awaited && !lane.watch(self()) && is_done())
        complete_future(); /* there is no thread for it; otherwise whoever waits for the work does */
}

/* The caller may hold the interpreter's lock, and must not wait for those that need it: only Inbox::run looks there. */
bool Work::isCompleted()
{
    return waits_in_inbox_.load(std::memory_order_acquire) ? is_done() : poll();
}

bool Work::wait(Milliseconds timeout)
{
    bool is_own = timeout.count() <= 0; /* of the call, counted from when it was made */
    Clock::time_point until;
    std::exception_ptr exception;

    if (is_own)
        timeout = timeout_;
    until = (is_own ? begun_ : Clock::now()) + timeout;
    const Clock::time_point *limit = timeout.count() ? &until : nullptr;
    if (waits_in_inbox_.load(std::memory_order_acquire) && !inbox_->await(*this, limit))
        fail(THRUM_ERR_TIMEOUT, describe() + " on " + inbox_->where() +
                                    " has not got a message within " +
                                    std::to_string(timeout.count()) + " ms; it is still waiting");
    if (!drive(limit))
        fail(THRUM_ERR_TIMEOUT, describe() + " on " + lane_->name() + " has not ended within " +
                                    std::to_string(timeout.count()) + " ms; it is still in flight");
    complete_future();
    exception = this->exception();
    if (exception)
        std::rethrow_exception(exception);
    return true;
}

int Work::sourceRank() const
{
    return source_.load();
}

Tensors Work::result()
{
    TORCH_CHECK(isCompleted(), "thrum: the result of an operation that has not ended: wait first");
    TORCH_CHECK(outputs_.size() <= 1,
                "thrum: the operation has several lists of results, which result() cannot return");
    return outputs_.empty() ? Tensors() : outputs_[0];
}

c10::intrusive_ptr<c10::ivalue::Future> Work::getFuture()
{
    bool is_new, is_elsewhere;

    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_new = !future_;
        is_elsewhere = waits_in_inbox_.load(); /* who takes it out has it watched */
        if (is_new)
            future_ = c10::make_intrusive<c10::ivalue::Future>(
                c10::ListType::create(c10::TensorType::get()));
    }
    if (is_done()) {
        complete_future();
    } else if (is_new && !is_elsewhere && !lane_->watch(self())) {
        std::lock_guard<std::mutex> lock(mutex_);
        future_.reset();
        fail(THRUM_ERR_SYSTEM, describe() + ": no thread can be started for its future");
    }
    return future_;
}

/* Calls what waits for the future, which may do anything: no lock is held. */
void Work::complete_future()
{
    std::exception_ptr exception;
    c10::intrusive_ptr<c10::ivalue::Future> future;

    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!future_ || future_completed_)
            return;
        future_completed_ = true;
        future = future_;
        exception = exception_;
    }
    if (exception)
        future->setError(exception);
    else if (outputs_.size() > 1)
        future->markCompleted(c10::IValue(outputs_));
    else
        future->markCompleted(c10::IValue(outputs_.empty() ? Tensors() : outputs_[0]));
}

} // namespace thrum_torch
