// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/detail/replicate.h>
#include <lockstep/parallel/detail/wrapped_module.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep {

/// The part of `DataParallel` that does not depend on the module's type.
///
/// Thread-safety: as `DataParallel`.
class LOCKSTEP_API DataParallelBase {
 public:
  DataParallelBase(const DataParallelBase&) = delete;
  DataParallelBase& operator=(const DataParallelBase&) = delete;

  // What `DataParallel` uses: no part of the reference.
  /// @cond backends
 protected:
  DataParallelBase(LocalRanks& ranks, const DistributedDataParallelOptions& options);
  ~DataParallelBase();

  /// Throws: `c10::Error` for an empty module of that rank; the first one's is the program's own.
  static void check_module(const std::shared_ptr<torch::nn::Module>& module, int rank);
  /// `replicas`: one a rank, the first one is the program's own.
  void set_replicas(std::vector<std::shared_ptr<torch::nn::Module>> replicas);
  [[nodiscard]] detail::Cut cut(std::optional<std::int64_t> samples, const char* call) const;
  /// Gives the replicas what the program has changed about the first one. `shares_buffers`: also
  /// its buffers, where each replica has written its own.
  void follow_net(bool shares_buffers);
  /// The same for gradients: those of the first replica, which a step adds to.
  void follow_gradients();
  /// Comes after the ranks have worked: what the first replica has written is not the program's.
  void note_buffers();

  /// In a rank that has no part of the batch.
  /// Collective: all ranks call it, or `backward`.
  static void sit_out(DistributedDataParallelBase& model);
  /// In a rank that has one.
  /// Collective: all ranks call it, or `sit_out`.
  void backward(const at::Tensor& loss, int rank);
  [[nodiscard]] at::Tensor mean_loss(const detail::Cut& cut);
  /// Calls `clone`.
  ///
  /// Throws: what it throws, with what to do instead.
  static void with_advice(const std::function<void()>& clone);

  [[nodiscard]] LocalRanks& ranks() noexcept { return *ranks_; }
  [[nodiscard]] const DistributedDataParallelOptions& options() const noexcept { return options_; }
  [[nodiscard]] c10::Device device_of(int rank) const {
    return ranks_->devices()[static_cast<std::size_t>(rank)];
  }
  /// @endcond

 private:
  struct Stamp;  // a buffer as it was: the memory, and how often it was written

  [[nodiscard]] std::vector<Stamp> stamps() const;
  void copy_buffers();

  LocalRanks* ranks_;
  DistributedDataParallelOptions options_;
  std::vector<std::shared_ptr<torch::nn::Module>> replicas_;
  // Of the first replica, as they were when the others were made.
  std::vector<std::shared_ptr<torch::nn::Module>> known_modules_;
  std::vector<at::Tensor> known_parameters_;
  std::vector<at::Tensor> losses_;    // of each rank, in the step
  std::vector<Stamp> known_buffers_;  // of the first replica, after the last call
};

/// Trains one module with several devices of one process, from a program with one loop: each rank
/// of a `LocalRanks` has a replica of the module and a part of each batch.
///
///     lockstep::DataParallel<Net> replicated(net, ranks);
///     torch::optim::SGD optimizer(net->parameters(), 0.1);
///     for (auto& batch : batches) {
///       optimizer.zero_grad();
///       const auto loss = replicated.step(batch.data, batch.target, loss_function);
///       optimizer.step();
///     }
///
/// The first rank's replica is `net` itself. Replicas on its device share its parameters' memory;
/// on other devices they get its values at the beginning of each call. At each call, the replicas
/// follow `net` in what the program has done to parameters and buffers (new values, memory or
/// dtype), which parameters require gradients, and the mode (`train`, `eval`) of each module. They
/// do not follow other members and options, such as the probability of a dropout; other modules
/// or parameters in the place of those of construction are refused. Each replica has buffers of its
/// own, as each rank of `DistributedDataParallel`; what the program writes into those of `net` is
/// copied to all.
///
/// After a call that threw, the object can be used again: parameters are those from before, the
/// gradients are to be set to zero, and buffers may have been written by some of the replicas.
///
/// `Net` is what `DistributedDataParallel` takes.
///
/// Thread-safety: one thread at a time, which must also be the only one to use the ranks.
/// Owns: the replicas. The `LocalRanks` must outlive the object.
template <typename Net>
class DataParallel final : public DataParallelBase {
  static_assert(detail::WrapsModule<Net>,
                "DataParallel<Net>: Net must be a module holder (the Name that TORCH_MODULE(Name) "
                "makes of NameImpl), a std::shared_ptr to a module, or torch::nn::AnyModule. For a "
                "module without a holder, write DataParallel<std::shared_ptr<NameImpl>>");

 public:
  /// Makes the replicas by `clone` of `net`, which `torch::nn::Cloneable` brings.
  /// `options`: as those of `DistributedDataParallel`, but gradients are always averaged by
  /// samples.
  ///
  /// Throws: `c10::Error` for an empty module, one that has no `clone`, parameters that are not on
  /// the first rank's device, a `SyncBatchNorm`, or `static_graph`.
  DataParallel(Net net, LocalRanks& ranks, const DistributedDataParallelOptions& options = {})
      : DataParallelBase(ranks, options) {
    check_module(detail::module_of(net), 0);
    std::vector<Net> replicas{net};
    with_advice([&] {
      for (int rank = 1; rank < ranks.size(); ++rank) {
        replicas.push_back(detail::clone_of(net, device_of(rank)));
      }
    });
    adopt(std::move(replicas));
  }
  /// Makes the replicas by a function, for modules without `clone`. It gives a new module with the
  /// parameters and buffers of `net`, under the same names, of any values.
  ///
  /// Throws: as the other one; `c10::Error` for a replica with other parameters or buffers, or one
  /// that shares a module, parameter or buffer with another.
  DataParallel(Net net, LocalRanks& ranks, const std::function<Net()>& make_replica,
               const DistributedDataParallelOptions& options = {})
      : DataParallelBase(ranks, options) {
    check_module(detail::module_of(net), 0);
    TORCH_CHECK(make_replica, "DataParallel: the function that makes a replica is empty");
    std::vector<Net> replicas{net};
    for (int rank = 1; rank < ranks.size(); ++rank) {
      replicas.push_back(make_replica());
      check_module(detail::module_of(replicas.back()), rank);
      detail::module_of(replicas.back())->to(device_of(rank));
    }
    adopt(std::move(replicas));
  }

  /// Cuts the batch along the first dimension, as `torch::chunk`, and lets each rank do forward,
  /// `loss_function(output, target)` and backward with its part. The gradients of `net` are then
  /// those of the mean over the whole batch, added to what they were before. Returns the mean of
  /// the losses by samples, without a graph.
  ///
  /// `loss_function` gives the mean over its samples, as a tensor with one element. It runs in
  /// several threads at once. A batch with fewer samples than ranks leaves some replicas idle.
  /// Gradients are on, whatever the caller's mode. Only the parameters of `net` get averaged
  /// gradients: whatever else requires them, such as a parameter that the loss function uses, gets
  /// what the ranks add to it in any order.
  ///
  /// Shapes: all tensors of `input` and `target` have as many samples as the first tensor of
  /// `input`; those without dimensions, and numbers beside tensors, go to all ranks.
  ///
  /// Blocks: the calling thread.
  ///
  /// Throws: what the module, the loss, or a collective throws in the first rank that fails, as
  /// `LocalRanks::run`; `c10::Error` for another shape, an empty batch, a batch that requires
  /// gradients, or a module that has other modules or parameters than at construction.
  template <typename Input, typename Target, typename Loss>
  at::Tensor step(const Input& input, const Target& target, Loss&& loss_function) {
    const detail::Cut cut = this->cut(detail::batch_size_of(input), "step");
    follow_net(/*shares_buffers=*/false);
    follow_gradients();
    ranks().run([&](const std::shared_ptr<ProcessGroup>& group, c10::Device device) {
      const int rank = group->rank();
      const Averaging scope(model_of(group));
      auto& model = scope.of.model;
      if (!cut.has_part(rank)) return sit_out(*model);
      const at::AutoGradMode with_grad(true);
      const auto output = model->forward(detail::part_of(input, cut, rank, device));
      model->set_samples(cut.length_of(rank));  // forward sees them in a single tensor only
      backward(loss_function(output, detail::part_of(target, cut, rank, device)), rank);
    });
    note_buffers();
    return mean_loss(cut);
  }

  /// Calls forward of each replica with its part of the batch, and puts the outputs together on the
  /// first device. There is no graph. The buffers are those of `net` in all replicas.
  ///
  /// Shapes: as `step`. The outputs' tensors are joined along the first dimension; outputs hold
  /// tensors only.
  /// Blocks: the calling thread.
  /// Throws: as `step`.
  template <typename Input>
  auto forward(const Input& input) {
    const detail::Cut cut = this->cut(detail::batch_size_of(input), "forward");
    follow_net(/*shares_buffers=*/true);
    using Output =
        std::decay_t<decltype(detail::forward_of(std::declval<Net&>()).forward(Input(input)))>;
    std::vector<std::optional<Output>> outputs(cut.lengths.size());
    ranks().run([&](ProcessGroup& group, c10::Device device) {
      const int rank = group.rank();
      if (!cut.has_part(rank)) return;
      const at::NoGradGuard no_grad;
      outputs[static_cast<std::size_t>(rank)].emplace(
          detail::forward_of(replica(rank)).forward(detail::part_of(input, cut, rank, device)));
    });
    note_buffers();
    const at::NoGradGuard no_grad;
    return detail::joined<Output>(std::move(outputs), device_of(0));
  }

  /// The module that was given: the first rank's replica.
  [[nodiscard]] Net& module() noexcept { return replicas_.front(); }
  /// The replica of that rank, for tests and statistics. Its parameters follow those of `module()`.
  [[nodiscard]] Net& replica(int rank) { return replicas_.at(static_cast<std::size_t>(rank)); }
  /// What happened so far on rank 0, since the last call that threw.
  [[nodiscard]] DistributedDataParallelStatistics statistics() const {
    const auto& first = models_.front().model;
    return first.is_empty() ? DistributedDataParallelStatistics() : first->statistics();
  }

 private:
  struct RankModel {
    DistributedDataParallel<Net> model{nullptr};
    std::shared_ptr<ProcessGroup> group;  // of `model`
    std::optional<NoSyncGuard> pause;     // between steps
  };
  /// Outside of it, a backward of the module by itself is none of the ranks' business.
  struct Averaging {
    explicit Averaging(RankModel& own) : of(own) { of.pause.reset(); }
    ~Averaging() { of.pause.emplace(of.model->no_sync()); }
    Averaging(const Averaging&) = delete;
    Averaging& operator=(const Averaging&) = delete;
    RankModel& of;
  };

  void adopt(std::vector<Net> replicas) {
    replicas_ = std::move(replicas);
    models_.resize(replicas_.size());
    std::vector<std::shared_ptr<torch::nn::Module>> modules;
    for (Net& each : replicas_) modules.push_back(detail::module_of(each));
    set_replicas(std::move(modules));
  }

  /// In the thread of a rank.
  /// Collective: where the ranks have got new groups.
  RankModel& model_of(const std::shared_ptr<ProcessGroup>& group) {
    RankModel& own = models_[static_cast<std::size_t>(group->rank())];
    if (own.group != group) {
      own.model = nullptr;  // before its successor takes memory
      own.group = nullptr;
      own.model = DistributedDataParallel<Net>(replica(group->rank()), group, options());
      own.group = group;
    }
    return own;
  }

  std::vector<Net> replicas_;
  std::vector<RankModel> models_;
};

}  // namespace lockstep
