// SPDX-License-Identifier: BSD-3-Clause
#include "collective_tensors.h"

#include <cstdlib>

#ifdef LOCKSTEP_BENCH_GLOO
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif

namespace bench {

#ifdef LOCKSTEP_BENCH_GLOO
namespace {

/// What PyTorch's DDP uses on the CPU, without Python around it.
class GlooSide final : public Side {
 public:
  explicit GlooSide(const World& world) : world_(world) {
    const auto options = c10d::ProcessGroupGloo::Options::create();
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    options->devices.push_back(
        c10d::ProcessGroupGloo::createDeviceForInterface(interface == nullptr ? "lo" : interface));
    group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::FileStore>(world.folder + "/gloo", world.size), world.rank,
        world.size, options);
  }

  [[nodiscard]] std::string name() const override { return "gloo"; }
  [[nodiscard]] bool can(Op) const override { return true; }
  [[nodiscard]] Prepared prepare(Op op, std::size_t bytes) override {
    const auto tensors = make_tensors(
        op, bytes, world_.size, [](std::int64_t elements) { return torch::zeros({elements}); });
    return prepared(op, tensors, world_.rank, call_of(op, tensors));
  }

 private:
  [[nodiscard]] std::function<void()> call_of(Op op, const Tensors& tensors) const {
    const auto& group = group_;
    auto [input, output] = tensors;
    std::vector<at::Tensor> inputs{input};
    switch (op) {
      case Op::AllReduce:
        return [=]() mutable { group->allreduce(inputs)->wait(); };
      case Op::Broadcast:
        return [=]() mutable { group->broadcast(inputs)->wait(); };
      case Op::AllGather:
        return [=]() mutable { group->_allgather_base(output, input)->wait(); };
      case Op::ReduceScatter:
        return [=]() mutable { group->_reduce_scatter_base(output, input)->wait(); };
      case Op::AllToAll:
        return [=]() mutable {
          std::vector<std::int64_t> even;
          group->alltoall_base(output, input, even, even)->wait();
        };
    }
    return {};
  }

  World world_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

std::vector<std::unique_ptr<Side>> make_gloo_sides(const World& world) {
  std::vector<std::unique_ptr<Side>> sides;
  sides.push_back(std::make_unique<GlooSide>(world));
  return sides;
}
#else
std::vector<std::unique_ptr<Side>> make_gloo_sides(const World&) {
  return {};
}
#endif

}  // namespace bench
