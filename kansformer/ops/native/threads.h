// Tasks on several threads: those of the OpenMP that PyTorch has brought into the process, so that there is one pool of
// threads, or threads of our own. OpenMP's entry point is handed over (threads.cpp) rather than linked, so that one build
// serves processes with and without it, and every compiler.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>

typedef void (*RunTeam)(void (*work)(void*), void* data, unsigned threads, unsigned flags);  // GOMP_parallel
inline RunTeam run_team = nullptr;

// Run body(task) for every task, on this many threads.
template <class Body>
static void parallel(int64_t tasks, int threads, Body body) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; task++) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t task; (task = next++) < tasks;) body(task);
  };
  const unsigned team = unsigned(std::min<int64_t>(threads, tasks));
  if (run_team) return run_team([](void* data) { (*static_cast<decltype(work)*>(data))(); }, &work, team, 0);
  const std::unique_ptr<std::thread[]> others(new std::thread[team - 1]);
  unsigned started = 0;
  try {
    for (; started < team - 1; started++) others[started] = std::thread(work);
  } catch (const std::system_error&) {  // no more threads: those that run do the work
  }
  work();
  for (unsigned i = 0; i < started; i++) others[i].join();
}
