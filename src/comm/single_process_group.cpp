// SPDX-License-Identifier: BSD-3-Clause
#include "comm/single_process_group.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "comm/operation.h"

namespace lockstep {
namespace {

class CompletedOperation final : public Operation {
 public:
  bool try_start(bool) override { return true; }
  bool try_finish() override { return true; }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override {}
  [[nodiscard]] std::string describe_missing() const override { return "nobody"; }
};

}  // namespace

std::shared_ptr<void> allocate_zeroed(std::size_t bytes) {
  void* data = std::calloc(std::max<std::size_t>(1, bytes), 1);
  if (data == nullptr) throw std::bad_alloc();
  return {data, std::free};
}

SingleProcessGroup::SingleProcessGroup(LaunchEnvironment environment,
                                       std::chrono::milliseconds timeout)
    : ProcessGroup(Backend::Single, std::move(environment), timeout) {}

std::unique_ptr<Operation> SingleProcessGroup::make_all_reduce(at::Tensor, ReduceOp) {
  return std::make_unique<CompletedOperation>();
}

std::unique_ptr<Operation> SingleProcessGroup::make_broadcast(at::Tensor, int) {
  return std::make_unique<CompletedOperation>();
}

std::unique_ptr<Operation> SingleProcessGroup::make_all_gather(std::vector<at::Tensor> outputs,
                                                               at::Tensor input) {
  std::memmove(outputs[0].data_ptr(), input.const_data_ptr(), input.nbytes());
  return std::make_unique<CompletedOperation>();
}

std::unique_ptr<Operation> SingleProcessGroup::make_barrier() {
  return std::make_unique<CompletedOperation>();
}

ProcessGroup::Memory SingleProcessGroup::allocate_bytes(std::size_t bytes) {
  auto owner = allocate_zeroed(bytes);
  void* data = owner.get();
  return {data, std::move(owner)};
}

}  // namespace lockstep
