// What a long piece of work says and hears. The work runs on threads of its own; whoever waits for it reads
// how far it is and may stop it.
#pragma once

#include <atomic>
#include <functional>
#include <stdexcept>

namespace repgeom {

struct Stopped : std::runtime_error {
    Stopped() : std::runtime_error("stopped") {}
};

struct Watch {
    std::atomic<bool> stop{false};
    std::atomic<double> share{0};  // of the whole work

    // What follows is the part of the whole from `from` to `to`; between pieces of work only.
    void begin(double from, double to) {
        from_ = from;
        to_ = to;
        report(0);
    }

    void report(double part) { share.store(from_ + (to_ - from_) * part, std::memory_order_relaxed); }

    void check() const {
        if (stop.load(std::memory_order_relaxed)) throw Stopped();
    }

  private:
    double from_ = 0;
    double to_ = 1;
};

// Runs `work` on a thread of its own while the calling thread calls `poll` every 50 ms. When `poll` throws,
// `stop` is called, the work is waited for, and what `poll` threw goes on.
void run_watched(const std::function<void()>& work, const std::function<void()>& poll,
                 const std::function<void()>& stop);

}  // namespace repgeom
