// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace lockstep {

class GradientReducer;  // src/parallel/gradient_reducer.h

/// The part of `DistributedDataParallelImpl` that does not depend on the wrapped type.
class LOCKSTEP_API DistributedDataParallelBase : public torch::nn::Module {
 public:
  ~DistributedDataParallelBase() override;

  /// Parameters, buffers and names are the wrapped module's own, with no prefix.
  [[nodiscard]] std::vector<torch::Tensor> parameters(bool recurse = true) const;
  [[nodiscard]] torch::OrderedDict<std::string, torch::Tensor> named_parameters(
      bool recurse = true) const;
  [[nodiscard]] std::vector<torch::Tensor> buffers(bool recurse = true) const;
  [[nodiscard]] torch::OrderedDict<std::string, torch::Tensor> named_buffers(
      bool recurse = true) const;

  void zero_grad(bool set_to_none = true) override;
  /// The archive is the wrapped module's own, so that it can be read with and without Lockstep.
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  /// Copies the buffers (running statistics of batch norm) of rank `root` to all ranks. Call it
  /// before an evaluation whose result must not depend on the rank, and before saving.
  ///
  /// Collective. Blocks: the calling thread.
  void broadcast_buffers(int root = 0);

  /// How the gradients travel: bytes of each bucket, in the order of their all-reduce.
  [[nodiscard]] std::vector<std::size_t> bucket_bytes() const;

 protected:
  DistributedDataParallelBase(std::shared_ptr<torch::nn::Module> module,
                              std::shared_ptr<ProcessGroup> group,
                              const DistributedDataParallelOptions& options);

  /// Makes the backward that reaches `output` finish the reduction when its outermost graph is
  /// done, also where parts of the model run a backward of their own (checkpointing).
  void watch(const torch::Tensor& output);
  void watch(const std::vector<torch::Tensor>& outputs);
  template <typename... Outputs>
  void watch(const std::tuple<Outputs...>& outputs) {
    std::apply([this](const auto&... output) { (watch(output), ...); }, outputs);
  }
  template <typename First, typename Second>
  void watch(const std::pair<First, Second>& outputs) {
    watch(outputs.first);
    watch(outputs.second);
  }
  /// Outputs of another type are complete when the backward that reaches the first parameter is.
  template <typename Other>
  void watch(const Other&) {}

 private:
  std::shared_ptr<torch::nn::Module> module_;
  std::shared_ptr<ProcessGroup> group_;
  std::unique_ptr<GradientReducer> reducer_;
};

/// A module whose gradients are averaged over all ranks when `backward()` returns.
///
/// Construct it with `DistributedDataParallel<Net>` below. Every rank wraps the same module and
/// calls forward and backward equally often. Buckets of gradients are all-reduced in a fixed order
/// while backward still runs; afterwards every parameter's `grad()` is the average, bitwise equal
/// on all ranks.
///
/// A parameter that no rank used keeps an undefined gradient; one that only some ranks used counts
/// as zero on the others. The gradients stay in the buckets: `grad()` is a view of one, until
/// `zero_grad()` drops it.
///
/// Collective: construction, backward, `broadcast_buffers`. Construction compares names, shapes and
/// dtypes over the ranks, then copies parameters and buffers of rank 0 to all others.
/// Thread-safety: one thread at a time, which must also be the only one to use the group meanwhile.
/// Owns: hooks on the parameters' gradient accumulators, removed on destruction, and the buckets.
/// Throws: `MismatchError` naming the first parameter or buffer that differs; from `backward()`
/// what a collective throws. Source: Li et al., "PyTorch Distributed: Experiences on Accelerating
/// Data Parallel Training", VLDB 2020.
template <typename Net>
class DistributedDataParallelImpl : public DistributedDataParallelBase {
 public:
  DistributedDataParallelImpl(Net net, std::shared_ptr<ProcessGroup> group,
                              const DistributedDataParallelOptions& options = {})
      : DistributedDataParallelBase(net.ptr(), std::move(group), options), net_(std::move(net)) {}

  template <typename... Arguments>
  auto forward(Arguments&&... arguments) {
    auto output = net_->forward(std::forward<Arguments>(arguments)...);
    watch(output);
    return output;
  }

  /// The wrapped module.
  [[nodiscard]] Net& module() noexcept { return net_; }
  [[nodiscard]] const Net& module() const noexcept { return net_; }

 private:
  Net net_;
};

/// Holder of a `DistributedDataParallelImpl`, as LibTorch's modules have: `model->forward(x)` and
/// `model(x)` both work.
template <typename Net>
class DistributedDataParallel : public torch::nn::ModuleHolder<DistributedDataParallelImpl<Net>> {
 public:
  using Impl = DistributedDataParallelImpl<Net>;

  DistributedDataParallel(Net net, std::shared_ptr<ProcessGroup> group,
                          const DistributedDataParallelOptions& options = {})
      : torch::nn::ModuleHolder<Impl>(
            std::make_shared<Impl>(std::move(net), std::move(group), options)) {}

  // LibTorch's own deduces the result from `forward` only where that is no template.
  template <typename... Arguments>
  auto operator()(Arguments&&... arguments) {
    return this->get()->forward(std::forward<Arguments>(arguments)...);
  }
};

}  // namespace lockstep
