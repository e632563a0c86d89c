// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/init.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <span>

#include "collective_tensors.h"
#include "comm/collective/collective.h"
#include "comm/collective/reduce_kernels.h"
#include "comm/group/group_core.h"
#include "comm/shared_memory/backend.h"
#include "lockstep_side.h"

namespace bench {
namespace {

using Group = std::shared_ptr<lockstep::ProcessGroup>;

std::function<void()> call_of(const std::shared_ptr<lockstep::ProcessGroup>& group, Op op,
                              const Tensors& tensors) {
  const auto [input, output] = tensors;
  switch (op) {
    case Op::AllReduce:
      return [=] { group->all_reduce(input).wait(); };
    case Op::Broadcast:
      return [=] { group->broadcast(input).wait(); };
    case Op::AllGather:
      return [=] { group->all_gather(output, input).wait(); };
    case Op::ReduceScatter:
      return [=] { group->reduce_scatter(output, input).wait(); };
    case Op::AllToAll:
      return [=] { group->all_to_all(output, input).wait(); };
  }
  return {};
}

class LockstepSide final : public Side {
 public:
  LockstepSide(std::string name, std::shared_ptr<lockstep::ProcessGroup> group, bool is_registered)
      : name_(std::move(name)), group_(std::move(group)), is_registered_(is_registered) {}
  ~LockstepSide() override {
    // After an error, the other ranks may never come.
    if (std::uncaught_exceptions() == 0) group_->close();
  }

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] bool can(Op) const override { return true; }
  [[nodiscard]] Prepared prepare(Op op, std::size_t bytes) override {
    const auto tensors = make_tensors(op, bytes, group_->size(), [this](std::int64_t elements) {
      return is_registered_ ? group_->allocate({elements}, torch::kFloat)
                            : torch::zeros({elements});
    });
    return prepared(op, tensors, group_->rank(), call_of(group_, op, tensors));
  }
  [[nodiscard]] std::string chosen_backend() const override {
    return std::string(to_string(group_->backend()));
  }

 private:
  std::string name_;
  std::shared_ptr<lockstep::ProcessGroup> group_;
  bool is_registered_;
};

/// The arithmetic and the memory traffic of an all-reduce in registered memory, and nothing else:
/// each rank reduces its share of all ranks' tensors in place, and nobody waits for anybody.
class LimitSide final : public Side {
 public:
  explicit LimitSide(Group group) : group_(std::move(group)) {}
  ~LimitSide() override { group_->close(); }

  [[nodiscard]] std::string name() const override { return "limit"; }
  [[nodiscard]] bool can(Op op) const override { return op == Op::AllReduce; }
  [[nodiscard]] Prepared prepare(Op op, std::size_t bytes) override {
    const auto tensors = make_tensors(op, bytes, group_->size(), [this](std::int64_t elements) {
      return group_->allocate({elements}, torch::kFloat);
    });
    auto& backend = dynamic_cast<lockstep::SharedMemoryBackend&>(group_->core().backend());
    const auto place =
        backend.transport().find(tensors.input.const_data_ptr(), tensors.input.nbytes());
    TORCH_CHECK(place.has_value(), "the tensor is not in registered memory");
    const auto own = static_cast<std::size_t>(group_->rank());
    const auto world = static_cast<std::size_t>(group_->size());
    const auto elements = static_cast<std::size_t>(tensors.input.numel());
    // Shares end at cache lines, as in the collective.
    const std::size_t share = (elements / world + 15) / 16 * 16;
    const std::size_t start = std::min(elements, share * own);
    const std::size_t count = std::min(elements, start + share) - start;
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    for (std::size_t rank = 0; rank < world; ++rank) {
      auto* data = place->of(static_cast<int>(rank)) + start * sizeof(float);
      inputs.push_back(data);
      outputs.push_back(data);
    }
    auto result = prepared(op, tensors, group_->rank(), [=, keep = tensors.input] {
      lockstep::reduce_ranks(at::kFloat, lockstep::ReduceOp::Sum, inputs, outputs, count);
    });
    result.wrong = [input = tensors.input](int) {  // others have not finished: nothing to check
      input.zero_();
      return std::size_t{0};
    };
    return result;
  }

 private:
  Group group_;
};

Group make_group(const std::string& name) {
  auto environment = lockstep::LaunchEnvironment::detect();
  environment.job_id += " " + name;
  return lockstep::make_shared_memory_process_group(environment, std::chrono::minutes(2));
}

}  // namespace

std::unique_ptr<Side> make_lockstep_side(std::string name,
                                         std::shared_ptr<lockstep::ProcessGroup> group,
                                         bool is_registered) {
  return std::make_unique<LockstepSide>(std::move(name), std::move(group), is_registered);
}

std::vector<std::unique_ptr<Side>> make_shared_memory_sides() {
  std::vector<std::unique_ptr<Side>> sides;
  sides.push_back(make_lockstep_side("lockstep", make_group("registered memory"), true));
  sides.push_back(make_lockstep_side("ordinary", make_group("ordinary memory"), false));
  sides.push_back(std::make_unique<LimitSide>(make_group("limit")));
  return sides;
}

double fingerprint_seconds(int world_size) {
  const auto tensor = torch::zeros({1 << 18});
  lockstep::Collective call;
  call.op = lockstep::CollectiveOp::AllReduce;
  call.inputs = call.outputs = {tensor};
  std::vector<lockstep::Fingerprint> prints(static_cast<std::size_t>(world_size));
  constexpr int kTimes = 20000;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kTimes; ++i) {
    for (auto& print : prints) {
      // Once for this rank; the others' arrive as a copy of a cache line.
      if (&print == &prints.front()) {
        print = lockstep::fingerprint_of(call);
      } else {
        std::memcpy(&print, &prints.front(), sizeof(print));
      }
      asm volatile("" : : "r"(&print) : "memory");
    }
    lockstep::check_fingerprints(world_size,
                                 [&](int rank) { return prints[static_cast<std::size_t>(rank)]; });
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count() / kTimes;
}

}  // namespace bench
