// The only place that starts threads.
#pragma once

#include <functional>
#include <memory>

#include "types.hpp"

namespace repgeom {

// REPGEOM_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process may use.
int default_threads();

// Workers that live as long as the team. run() hands out tasks 0..count-1 dynamically; the caller works too.
// A task must write only what it owns, so that results do not depend on which thread ran it or on how many
// there are. The first exception of a task is rethrown by run() after all threads have stopped.
class ThreadTeam {
  public:
    explicit ThreadTeam(int threads);
    ~ThreadTeam();
    ThreadTeam(const ThreadTeam&) = delete;
    ThreadTeam& operator=(const ThreadTeam&) = delete;

    int size() const;

    // Asks that no worker be woken on the processor of the caller, where it would wait for the caller to
    // stop. Call it before the first of a series of runs.
    void spread();

    void run(index_t count, const std::function<void(index_t task, int thread)>& work);

  private:
    struct Shared;
    std::unique_ptr<Shared> shared_;
};

}  // namespace repgeom
