#include "parallel.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "check.hpp"

using repgeom::index_t;
using repgeom::ThreadTeam;

namespace {

void every_task_runs_once(ThreadTeam& team, index_t count) {
    std::vector<std::atomic<int>> ran(static_cast<std::size_t>(count));
    std::atomic<bool> known_thread{true};
    team.run(count, [&](index_t task, int thread) {
        ran[static_cast<std::size_t>(task)]++;
        if (thread < 0 || thread >= team.size()) known_thread = false;
    });
    for (const auto& times : ran) CHECK(times == 1);
    CHECK(known_thread);
}

// No two tasks share a thread number at the same time, or their scratch memory would be shared too.
void threads_do_one_task_at_a_time(ThreadTeam& team) {
    std::vector<std::atomic<int>> inside(static_cast<std::size_t>(team.size()));
    std::atomic<bool> alone{true};
    team.run(2000, [&](index_t, int thread) {
        auto& here = inside[static_cast<std::size_t>(thread)];
        if (here.fetch_add(1) != 0) alone = false;
        here.fetch_sub(1);
    });
    CHECK(alone);
}

void exceptions_are_rethrown(ThreadTeam& team, index_t bad) {
    bool caught = false;
    try {
        team.run(100, [&](index_t task, int) {
            if (task == bad) throw std::runtime_error("task " + std::to_string(task));
        });
    } catch (const std::runtime_error& error) {
        caught = error.what() == "task " + std::to_string(bad);
    }
    CHECK(caught);
}

void all_tasks_may_fail(ThreadTeam& team) {
    int caught = 0;
    try {
        team.run(100, [](index_t, int) { throw std::invalid_argument("always"); });
    } catch (const std::invalid_argument&) {
        ++caught;
    }
    CHECK(caught == 1);
}

void bad_sizes_are_refused() {
    for (const int threads : {0, -1}) {
        bool caught = false;
        try {
            ThreadTeam team(threads);
        } catch (const std::invalid_argument& error) {
            caught = error.what() == "threads must be at least 1, got " + std::to_string(threads);
        }
        CHECK(caught);
    }
}

void default_threads_follow_the_environment() {
    setenv("OMP_NUM_THREADS", "5", 1);
    unsetenv("REPGEOM_NUM_THREADS");
    CHECK(repgeom::default_threads() == 5);
    setenv("REPGEOM_NUM_THREADS", "3", 1);
    CHECK(repgeom::default_threads() == 3);
    setenv("REPGEOM_NUM_THREADS", "no number", 1);
    CHECK(repgeom::default_threads() == 5);
    setenv("OMP_NUM_THREADS", "-2", 1);
    CHECK(repgeom::default_threads() >= 1);
}

}  // namespace

int main() {
    for (const int threads : {1, 2, 3, 8}) {
        ThreadTeam team(threads);
        CHECK(team.size() == threads);
        for (const index_t count : {0, 1, 2, 7, 1000}) every_task_runs_once(team, count);
        threads_do_one_task_at_a_time(team);
        for (const index_t bad : {0, 50, 99}) {
            exceptions_are_rethrown(team, bad);
            every_task_runs_once(team, 50);
        }
        all_tasks_may_fail(team);
        for (int round = 0; round < 500; ++round) every_task_runs_once(team, round % 5);
    }
    for (int round = 0; round < 200; ++round) ThreadTeam unused(3);
    bad_sizes_are_refused();
    default_threads_follow_the_environment();
    return repgeom::test::failures() != 0;
}
