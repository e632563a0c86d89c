// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/detail/watch_outputs.h>
#include <lockstep/parallel/detail/wrapped_module.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

class AutogradHooks;    // src/parallel/ddp/autograd_hooks.h
class ParameterRecord;  // src/parallel/ddp/parameter_record.h
struct DdpState;        // src/parallel/ddp/ddp_state.h
struct UnfinishedReduction;

/// While one lives, backwards of its model add up gradients on this rank and communicate nothing.
/// The next backward without one averages the sums, once. What counts is when backward runs, not
/// when forward ran. Guards nest; the model may end first.
///
/// Thread-safety: a guard may end in any thread, but not while backward runs.
class [[nodiscard]] NoSyncGuard {
 public:
  /// Made by `DistributedDataParallelBase::no_sync`.
  explicit NoSyncGuard(std::shared_ptr<std::atomic<int>> pauses) : pauses_(std::move(pauses)) {
    ++*pauses_;
  }
  /// The next backward averages, unless another guard lives.
  ~NoSyncGuard() {
    if (pauses_) --*pauses_;
  }
  /// The guard that is moved from guards nothing any more.
  NoSyncGuard(NoSyncGuard&&) = default;  // for std::optional and std::unique_ptr
  NoSyncGuard(const NoSyncGuard&) = delete;
  NoSyncGuard& operator=(const NoSyncGuard&) = delete;

 private:
  std::shared_ptr<std::atomic<int>> pauses_;
};

/// The part of `DistributedDataParallelImpl` that does not depend on the wrapped type.
///
/// Thread-safety: as `DistributedDataParallelImpl`.
class LOCKSTEP_API DistributedDataParallelBase : public torch::nn::Module {
 public:
  /// Removes the hooks from the parameters; communicates nothing.
  ~DistributedDataParallelBase() override;

  /// The wrapped module's own.
  [[nodiscard]] std::vector<torch::Tensor> parameters(bool recurse = true) const;
  /// The wrapped module's own, under its own names, with no prefix.
  [[nodiscard]] torch::OrderedDict<std::string, torch::Tensor> named_parameters(
      bool recurse = true) const;
  /// The wrapped module's own.
  [[nodiscard]] std::vector<torch::Tensor> buffers(bool recurse = true) const;
  /// The wrapped module's own, under its own names, with no prefix.
  [[nodiscard]] torch::OrderedDict<std::string, torch::Tensor> named_buffers(
      bool recurse = true) const;

  /// Lets the gradients go, or with `set_to_none` false makes them zeros where they are.
  void zero_grad(bool set_to_none = true) override;
  /// The archive is the wrapped module's own, so that it can be read with and without Lockstep.
  void save(torch::serialize::OutputArchive& archive) const override;
  /// Reads what `save` of this or of the wrapped module has written.
  void load(torch::serialize::InputArchive& archive) override;

  /// Gradients add up on this rank while the guard lives: accumulation over several batches.
  [[nodiscard]] NoSyncGuard no_sync() { return NoSyncGuard(pauses_); }

  /// Says that this rank has no data left, and takes part in the backwards of those that have,
  /// until none has. Every rank calls it when its loop is over, in the same place of the program.
  ///
  /// `step` runs after each backward of the others: with the optimizer's step in it, this rank's
  /// parameters and optimizer stay equal to theirs. Without it, parameters and buffers are copied
  /// at the end from the first rank that worked longest; the optimizer's state is not. All ranks
  /// give one, or none does. Afterwards no parameter has a gradient.
  ///
  /// Nothing but the gradients is averaged: a forward that communicates itself (SyncBatchNorm)
  /// needs all ranks to have data.
  ///
  /// Blocks: the calling thread, until all ranks have joined.
  /// Collective: all ranks call it.
  /// Throws: `c10::Error` with `static_graph`.
  /// Source: PyTorch's Join.
  void join(const std::function<void()>& step = nullptr);

  /// Sets how many samples this rank counts in the next average, with `GradientAveraging::Samples`;
  /// with 0 its gradients count nothing. Without a call, the sizes of the first dimension of
  /// forward's first argument count, added up over the forwards that backward goes through.
  void set_samples(std::int64_t samples);

  /// Replaces the all-reduce of each bucket, from the next backward on; null brings the all-reduce
  /// back. All ranks register the same hook. In a world of one, this does nothing.
  ///
  /// Throws: `c10::Error` during backward.
  void register_communication_hook(CommunicationHook hook);

  /// Copies the parameters of rank `root` to all ranks, as construction does: for programs that
  /// changed them otherwise than by steps with averages.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: what a collective throws.
  void broadcast_parameters(int root = 0);
  /// Copies the buffers (running statistics of batch norm) of rank `root` to all ranks. Call it
  /// before an evaluation whose result must not depend on the rank, and before saving.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: what a collective throws.
  void broadcast_buffers(int root = 0);
  /// Gives all ranks the mean of their buffers; buffers of whole numbers are copied from rank 0.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: what a collective throws.
  void average_buffers();

  /// What this model has learned about its backwards, for a checkpoint: the buckets of each set of
  /// parameters and their number (`plan`), how many gradients a parameter gets, and the usual
  /// number of samples. No values of parameters: save the module beside it.
  ///
  /// It is the same on all ranks, unless ranks run a module different numbers of times. What is no
  /// parameter of the module any more is left out.
  [[nodiscard]] std::string state() const;
  /// Goes on as the model whose `state` it was, from the next backward on, and measures nothing
  /// anew. What the backwards of this model have learned is forgotten. The number of ranks may be
  /// another one. A communication hook that keeps state by `plan` has its state loaded too, or is
  /// registered anew. In a world of one, the state is kept for the next checkpoint.
  ///
  /// All ranks load a state before the same forward: as many ranks as before each its own, others
  /// that of rank 0.
  /// Blocks: as long as buckets of a backward that threw are under way.
  /// Throws: `c10::Error` for a state of other parameters or other options for buckets, during
  /// backward, and while gradients wait for their average (`no_sync`); then nothing has changed.
  void load_state(const std::string& state);
  /// Does all of `load_state` but changing the model, which calling the result does. That waits for
  /// nothing. No backward runs in between.
  /// Blocks: as `load_state`.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> prepare_state(const std::string& state);
  /// Does the same with the state that rank 0 had among another number of ranks. `rank`: of this
  /// process.
  /// Blocks: as `load_state`.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> adapt_state(const std::string& of_rank_0, int rank);

  /// Hooks the parameters anew on the stream that is current now. For programs that train on
  /// another stream than the one on which the model was wrapped: gradients belong to that one. No
  /// backward is under way.
  void rebind();

  /// What happened so far, on this rank.
  [[nodiscard]] DistributedDataParallelStatistics statistics() const;
  /// The bytes of each bucket of gradients, in the order of their all-reduce.
  [[nodiscard]] std::vector<std::size_t> bucket_bytes() const;

  // What `DistributedDataParallelImpl` uses: no part of the reference.
  /// @cond backends
  /// What `GraphedStep` asks: why steps of this model cannot be captured on such a device now
  /// (empty: they can), and how many steps come first.
  [[nodiscard]] std::string obstacle_to_capture(c10::DeviceType device) const;
  [[nodiscard]] std::size_t steps_before_capture() const noexcept;
  /// Comes before a capture: gradients that the program holds get memory of their own, since the
  /// graph writes the buckets from then on.
  void vacate_buckets();

 protected:
  DistributedDataParallelBase(std::shared_ptr<torch::nn::Module> module,
                              std::shared_ptr<ProcessGroup> group,
                              const DistributedDataParallelOptions& options);

  /// Come before each forward, and after it. `samples`: how many the forward has, if that shows.
  /// Where parameters that had no gradients before need them, or have got another form, all ranks
  /// compare them and rebuild the buckets.
  /// Collective: in that case.
  void begin_forward(std::optional<std::int64_t> samples);
  void end_forward();
  /// Makes the backward that reaches `output` finish the reduction when its outermost graph is
  /// done, also where parts of the model run a backward of their own (checkpointing).
  void watch(const torch::Tensor& output);
  /// @endcond

 private:
  using Clock = std::chrono::steady_clock;

  friend LOCKSTEP_API void join(
      const std::vector<std::reference_wrapper<DistributedDataParallelBase>>& models,
      const std::function<void()>& step);

  /// Follows what the program has done to the parameters. `has_graph`: forward has run.
  /// Collective: as `begin_forward`.
  void follow_parameters(bool has_graph);
  /// Blocks: the calling thread. Collective: all ranks.
  void compare_and_hook(bool has_graph);
  void go_on_with(DdpState state);
  void replace_reducer(std::vector<std::pair<std::string, torch::Tensor>> hooked);
  [[nodiscard]] std::vector<std::pair<std::string, torch::Tensor>> parameters_to_hook() const;
  /// Takes part in a backward of the other ranks. Returns false when no rank had data. `round`:
  /// lives as long as all models do so once. Collective: all ranks.
  bool shadow(const std::shared_ptr<bool>& round);

  std::shared_ptr<torch::nn::Module> module_;
  std::shared_ptr<ProcessGroup> group_;
  DistributedDataParallelOptions options_;
  std::shared_ptr<std::atomic<int>> pauses_ = std::make_shared<std::atomic<int>>(0);
  CommunicationHook hook_;
  std::unique_ptr<ParameterRecord> record_;  // of the latest look at the parameters
  std::vector<torch::Tensor> known_;         // to be compared, and to have rank 0's values
  std::unique_ptr<AutogradHooks> autograd_hooks_;
  std::unique_ptr<DdpState> loaded_;                 // for a reducer that is not there yet
  std::unique_ptr<UnfinishedReduction> unfinished_;  // of a reducer that has no successor yet
  bool needs_gradients_ = true;                      // some parameter does
  bool is_watched_ = false;                          // the forward under way: its backward averages
  DistributedDataParallelStatistics so_far_;         // of reducers that were replaced
  Clock::time_point forward_begin_, forward_end_;
  std::optional<std::int64_t> forward_samples_;
  Clock::duration forward_ = {}, forward_total_ = {};
  std::uint64_t forward_step_ = 0;  // of `forward_`
};

/// `join` for several models that are trained together: this rank takes part in a backward of each
/// model, in this order, until no rank has data for any. The other ranks make the same backwards in
/// their loops: one for each model and step, one after the other. (Models whose gradients come in
/// one backward are joined as one module, or have a group each and stand here as backward reaches
/// them.) `step` runs after each round.
///
///     lockstep::join({*generator, *discriminator}, step);
///
/// Blocks: the calling thread, until all ranks have joined.
/// Collective: all ranks call it with the same models in the same order.
/// Throws: as `DistributedDataParallelBase::join`.
LOCKSTEP_API void join(
    const std::vector<std::reference_wrapper<DistributedDataParallelBase>>& models,
    const std::function<void()>& step = nullptr);

/// A module whose gradients are averaged over all ranks when `backward()` returns.
///
/// Construct it with `DistributedDataParallel<Net>` below. `Net` is a module holder, as
/// `TORCH_MODULE` makes one, a `std::shared_ptr` to a module, or `torch::nn::AnyModule`. Every rank
/// wraps the same module and calls forward and backward equally often (or `join`s). Buckets of
/// gradients are all-reduced in a fixed order while backward still runs; afterwards every
/// parameter's `grad()` is the average, bitwise equal on all ranks.
///
/// A parameter that no rank used keeps the gradient it had, undefined as a rule; one that only some
/// ranks used counts as zero on the others. A part of the model may run several times in one
/// backward, as recomputed activations do. Sparse gradients of embeddings stay sparse. The
/// gradients stay in the buckets: `grad()` is a view of one, until `zero_grad()` drops it.
///
/// Construction compares names, shapes and dtypes over the ranks, then copies parameters and
/// buffers of rank 0 to all others.
///
/// Collective: construction, backward (without a `NoSyncGuard`), `join`, and members that say so.
/// Thread-safety: one thread at a time, which must also be the only one to use the group meanwhile.
/// Owns: hooks on the parameters' gradient accumulators, removed on destruction, and the buckets.
/// Throws: `MismatchError` naming the first parameter or buffer that differs; from `backward()`
/// what a collective throws, and `c10::Error` for `create_graph`.
/// Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training",
/// VLDB 2020.
template <typename Net>
class DistributedDataParallelImpl : public DistributedDataParallelBase {
  static_assert(detail::WrapsModule<Net>,
                "DistributedDataParallel<Net>: Net must be a module holder (the Name that "
                "TORCH_MODULE(Name) makes of NameImpl), a std::shared_ptr to a module, or "
                "torch::nn::AnyModule. For a module without a holder, write "
                "DistributedDataParallel<std::shared_ptr<NameImpl>>");

 public:
  /// Wraps `net`.
  /// Blocks: the calling thread.
  /// Collective: all ranks wrap the same module with the same options.
  /// Throws: as the class says, and `c10::Error` for options out of range.
  DistributedDataParallelImpl(Net net, std::shared_ptr<ProcessGroup> group,
                              const DistributedDataParallelOptions& options = {})
      : DistributedDataParallelBase(detail::module_of(net), std::move(group), options),
        net_(std::move(net)) {}

  /// Calls the wrapped module's forward. Outputs may be tensors, and containers, tuples, optionals
  /// and pairs of them to any depth; a type of the program's own is looked into if it has `template
  /// <typename F> void for_each_tensor(F f) const`.
  template <typename... Arguments>
  auto forward(Arguments&&... arguments) {
    static_assert(detail::ForwardTakes<Net, Arguments...>,
                  "DistributedDataParallel::forward: the wrapped module has no public forward() "
                  "that takes these arguments");
    begin_forward(detail::samples_of(arguments...));
    return finished(detail::forward_of(net_).forward(std::forward<Arguments>(arguments)...));
  }
  /// Calls forward with its result's type, for modules that have to be told it, as `Sequential` and
  /// `AnyModule`. Their `forward` gives a tensor.
  template <typename Result, typename... Arguments>
  Result forward_as(Arguments&&... arguments) {
    static_assert(detail::ForwardGives<Result, Net, Arguments...>,
                  "DistributedDataParallel::forward_as: the wrapped module has no "
                  "forward<Result>() that takes these arguments; call forward()");
    begin_forward(detail::samples_of(arguments...));
    return finished(
        detail::forward_of(net_).template forward<Result>(std::forward<Arguments>(arguments)...));
  }

  /// The wrapped module.
  [[nodiscard]] Net& module() noexcept { return net_; }
  /// The wrapped module.
  [[nodiscard]] const Net& module() const noexcept { return net_; }

 private:
  template <typename Output>
  Output finished(Output output) {
    end_forward();
    detail::for_each_tensor(output, [this](const torch::Tensor& tensor) { watch(tensor); });
    return output;
  }

  Net net_;
};

/// Holder of a `DistributedDataParallelImpl`, as LibTorch's modules have: `model->forward(x)` and
/// `model(x)` both work, and `{nullptr}` makes an empty one, to be assigned later.
///
/// Thread-safety: as what it holds.
template <typename Net>
class DistributedDataParallel : public torch::nn::ModuleHolder<DistributedDataParallelImpl<Net>> {
 public:
  /// What it holds.
  using Impl = DistributedDataParallelImpl<Net>;

  /// Wraps `net`, as the constructor of `DistributedDataParallelImpl`.
  DistributedDataParallel(Net net, std::shared_ptr<ProcessGroup> group,
                          const DistributedDataParallelOptions& options = {})
      : torch::nn::ModuleHolder<Impl>(
            std::make_shared<Impl>(std::move(net), std::move(group), options)) {}
  /// An empty one.
  DistributedDataParallel(std::nullptr_t) : torch::nn::ModuleHolder<Impl>(nullptr) {}  // NOLINT
  /// What `register_module` of another module returns.
  DistributedDataParallel(std::shared_ptr<Impl> impl)  // NOLINT
      : torch::nn::ModuleHolder<Impl>(std::move(impl)) {}

  /// As `DistributedDataParallelBase::state`.
  [[nodiscard]] std::string state() const { return this->get()->state(); }
  /// As `DistributedDataParallelBase::load_state`.
  void load_state(const std::string& state) { this->get()->load_state(state); }
  /// As `DistributedDataParallelBase::prepare_state`.
  [[nodiscard]] std::function<void()> prepare_state(const std::string& state) {
    return this->get()->prepare_state(state);
  }
  /// As `DistributedDataParallelBase::adapt_state`.
  [[nodiscard]] std::function<void()> adapt_state(const std::string& of_rank_0, int rank) {
    return this->get()->adapt_state(of_rank_0, rank);
  }

  // LibTorch's own deduces the result from `forward` only where that is no template.
  /// `forward`.
  template <typename... Arguments>
  auto operator()(Arguments&&... arguments) {
    return this->get()->forward(std::forward<Arguments>(arguments)...);
  }
};

}  // namespace lockstep
