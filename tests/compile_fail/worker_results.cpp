// SPDX-License-Identifier: BSD-3-Clause
// Programs that a WorkerPool refuses, one a line, with what the compiler must say.
#include <lockstep/workers/worker_pool.h>

#include <map>

namespace {

using Names = std::map<std::string, int>;
struct Page {
  std::string title;
};

// clang-format off
void refused(lockstep::WorkerPool& pool, const std::vector<int>& items) {
  pool.map(items, [](int) { return Names(); });  // refused: WorkerPool: a result is trivially copyable, a std::string, a vector of these, or nothing; for a type of your own
  pool.map(items, [](int) { return std::vector<Page>(); });  // refused: WorkerPool: a result is trivially copyable, a std::string, a vector of these, or nothing; for a type of your own
  pool.map(items, 3);  // refused: WorkerPool: the function is called with one item, as a constant reference
  pool.map(items, [](int, int) { return 0; });  // refused: WorkerPool: the function is called with one item, as a constant reference
  pool.map_in_order(items, [](std::string) { return 0; }, [](std::size_t, int) {});  // refused: WorkerPool: the function is called with one item, as a constant reference
}

}  // namespace
