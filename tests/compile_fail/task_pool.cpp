// SPDX-License-Identifier: BSD-3-Clause
// Programs that a TaskPool refuses, one a line, with what the compiler must say.
#include <lockstep/workers/task_pool.h>

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Page {
  std::string title;
};

// clang-format off
void refused(lockstep::TaskPool& pool, const at::Tensor& tensor, const std::vector<int>& items) {
  pool.submit([tensor] { return tensor; });  // refused: TaskPool: what the function captures does not go to another process; pass tensors, strings and vectors as arguments (submit_to_thread takes any function)
  pool.submit([text = std::string("text")] { return text; });  // refused: TaskPool: what the function captures does not go to another process; pass tensors, strings and vectors as arguments (submit_to_thread takes any function)
  pool.map(items, [items](int item) { return item; });  // refused: TaskPool: what the function captures does not go to another process; pass tensors, strings and vectors as arguments (submit_to_thread takes any function)
  pool.submit(std::function<void()>([] {}));  // refused: TaskPool: what the function captures does not go to another process; pass tensors, strings and vectors as arguments (submit_to_thread takes any function)
  pool.submit([](int* number) { return *number; }, static_cast<int*>(nullptr));  // refused: TaskPool: an argument is a torch::Tensor, trivially copyable, a std::string, a container of these, or has a lockstep::workers::ResultCodec; no pointer, view or reference
  pool.submit([](Page) {}, Page());  // refused: TaskPool: an argument is a torch::Tensor, trivially copyable, a std::string, a container of these, or has a lockstep::workers::ResultCodec; no pointer, view or reference
  pool.submit([](std::set<int>) {}, std::set<int>());  // refused: TaskPool: an argument is a torch::Tensor, trivially copyable, a std::string, a container of these, or has a lockstep::workers::ResultCodec; no pointer, view or reference
  pool.submit([](at::IntArrayRef) {}, at::IntArrayRef());  // refused: TaskPool: an argument is a torch::Tensor, trivially copyable, a std::string, a container of these, or has a lockstep::workers::ResultCodec; no pointer, view or reference
  pool.submit([] { return std::string_view(); });  // refused: TaskPool: a result is a torch::Tensor, trivially copyable, a std::string, a container of these, has a lockstep::workers::ResultCodec, or is nothing; no pointer, view or reference
  pool.submit([] { return std::vector<Page>(); });  // refused: TaskPool: a result is a torch::Tensor, trivially copyable, a std::string, a container of these, has a lockstep::workers::ResultCodec, or is nothing; no pointer, view or reference
  pool.submit([](int& number) { ++number; }, 3);  // refused: TaskPool: the function is called with the arguments as values of its own (texts are std::string), and takes them by value or by constant reference
  pool.submit([](int) {});  // refused: TaskPool: the function is called with the arguments as values of its own (texts are std::string), and takes them by value or by constant reference
  pool.map(items, [](std::string) {});  // refused: TaskPool: the function is called with the arguments as values of its own (texts are std::string), and takes them by value or by constant reference
  pool.map_unordered(items, 3);  // refused: TaskPool: the function is called with the arguments as values of its own (texts are std::string), and takes them by value or by constant reference
}

}  // namespace
