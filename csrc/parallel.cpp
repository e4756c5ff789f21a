#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "denormals.hpp"
#include "watch.hpp"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace repgeom {

namespace {

int threads_from(const char* variable) {
    const char* text = std::getenv(variable);
    return text == nullptr ? 0 : std::atoi(text);
}

int usable_processors() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Waits until `value` is no longer `seen`. Rounds follow each other within microseconds: whoever slept
// between them would be woken on the processor of its waker, and the two would take turns instead of running
// at once.
void wait_while(const std::atomic<int>& value, int seen) {
    using clock = std::chrono::steady_clock;
    const clock::time_point patience = clock::now() + std::chrono::microseconds(200);
    while (value.load() == seen) {
        if (clock::now() > patience) {
            value.wait(seen);
            return;
        }
        std::this_thread::yield();
    }
}

}  // namespace

int default_threads() {
    for (const char* variable : {"REPGEOM_NUM_THREADS", "OMP_NUM_THREADS"})
        if (const int threads = threads_from(variable); threads > 0) return threads;
    return usable_processors();
}

struct ThreadTeam::Shared {
    std::atomic<int> round{0};
    std::atomic<int> busy{0};
    std::atomic<index_t> next{0};
    bool closing = false;
    index_t count = 0;
    const std::function<void(index_t, int)>* work = nullptr;
    std::mutex mutex;
    std::exception_ptr error;
    std::vector<std::thread> workers;

    std::atomic<int> spreads{0};
#ifdef __linux__
    cpu_set_t allowed;  // before the last spread
#endif

    void drain(int thread) {
        const DenormalsCount denormals;
        try {
            for (index_t task; (task = next.fetch_add(1)) < count;) (*work)(task, thread);
        } catch (...) {
            next.store(count);
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
        }
    }

    void serve(int thread) {
        for (int seen = 0, spread = 0;;) {
            wait_while(round, seen);
            seen = round.load();
            if (closing) return;
            // Awake on a processor of its own, the worker may move like any other thread.
            if (spread != spreads.load()) {
                spread = spreads.load();
#ifdef __linux__
                static_cast<void>(pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed));
#endif
            }
            drain(thread);
            if (busy.fetch_sub(1) == 1) busy.notify_one();
        }
    }

    void start_round() {
        round.fetch_add(1);
        round.notify_all();
    }
};

ThreadTeam::ThreadTeam(int threads) : shared_(std::make_unique<Shared>()) {
    require(threads >= 1, "threads must be at least 1", threads);
    shared_->workers.reserve(static_cast<std::size_t>(threads - 1));
    try {
        for (int thread = 1; thread < threads; ++thread)
            shared_->workers.emplace_back([shared = shared_.get(), thread] { shared->serve(thread); });
    } catch (const std::system_error&) {
        // The system refused another thread: results do not depend on their number, so work with what there
        // is.
    }
}

ThreadTeam::~ThreadTeam() {
    shared_->closing = true;
    shared_->start_round();
    for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadTeam::spread() {
#ifdef __linux__
    cpu_set_t& allowed = shared_->allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
    cpu_set_t others = allowed;
    CPU_CLR(static_cast<std::size_t>(sched_getcpu()), &others);
    // A wish: where it is not granted, everything works as well and a little slower.
    for (std::thread& worker : shared_->workers)
        static_cast<void>(pthread_setaffinity_np(worker.native_handle(), sizeof others, &others));
    shared_->spreads.fetch_add(1);
#endif
}

int ThreadTeam::size() const { return static_cast<int>(shared_->workers.size()) + 1; }

void ThreadTeam::run(index_t count, const std::function<void(index_t, int)>& work) {
    shared_->count = count;
    shared_->work = &work;
    shared_->next.store(0);
    shared_->busy.store(size() - 1);
    shared_->start_round();
    shared_->drain(0);
    for (int busy; (busy = shared_->busy.load()) != 0;) wait_while(shared_->busy, busy);
    if (shared_->error) std::rethrow_exception(std::exchange(shared_->error, nullptr));
}

void run_watched(const std::function<void()>& work, const std::function<void()>& poll,
                 const std::function<void()>& stop) {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    std::exception_ptr error, interruption;
    std::thread worker([&] {
        const DenormalsCount denormals;
        try {
            work();
        } catch (...) {
            error = std::current_exception();
        }
        const std::lock_guard lock(mutex);
        done = true;
        changed.notify_one();
    });
    std::unique_lock lock(mutex);
    while (!changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return done; })) {
        if (interruption) continue;
        lock.unlock();
        try {
            poll();
        } catch (...) {
            interruption = std::current_exception();
            stop();
        }
        lock.lock();
    }
    lock.unlock();
    worker.join();
    if (interruption) std::rethrow_exception(interruption);
    if (error) std::rethrow_exception(error);
}

}  // namespace repgeom
