// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/call_options.h>
#include <lockstep/comm/types.h>
#include <lockstep/comm/work.h>
#include <lockstep/core/error.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace lockstep {

class GroupCore;  // the state and the backend of a group; internal

/// The ranks that work together, and how they talk. Made by `init_process_group`.
///
/// Collective: all ranks call the same collectives in the same order, with tensors of the same
/// dtype and number of elements (where a call does not say otherwise). The backends check that and
/// throw `MismatchError` on every rank where it does not hold, before a byte of the result is
/// written. A tensor belongs to the group until the collective's `Work` is complete.
///
/// When a call is made, autograd learns which tensors it writes: a backward that needs their old
/// values throws autograd's error ("modified by an inplace operation"). No collective has a
/// derivative: a backward that comes to what one wrote in a graph throws as well. Parameters and
/// other leaves may be written. Inference tensors have no version, and are written as they are.
///
/// Thread-safety: one thread at a time; threads may take turns. Where two are in it at once, both
/// get a `c10::Error` that names their calls, and the group has failed. Two groups are independent
/// of each other.
class LOCKSTEP_API ProcessGroup final {
 public:
  /// Never waits for another rank and never throws. A group that was not closed aborts: its peers
  /// learn that this rank left, and fail with `PeerLostError` instead of waiting. Over MPI, the
  /// process then ends without `MPI_Finalize`, which would wait for them.
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  /// This rank's number, from 0 to `size()` - 1.
  [[nodiscard]] int rank() const noexcept;
  /// How many ranks the group has.
  [[nodiscard]] int size() const noexcept;
  /// This rank's number among the ranks of its host.
  [[nodiscard]] int local_rank() const noexcept;
  /// How many ranks of the group are on this host.
  [[nodiscard]] int local_size() const noexcept;
  /// How the ranks communicate; never `Backend::Auto`.
  [[nodiscard]] Backend backend() const noexcept;
  /// What carries data between hosts, how fast it was when the group was made, and how all-reduces
  /// are cut for it, for people to read; empty where all ranks share a host, or nothing is known.
  [[nodiscard]] std::string describe_link() const;
  /// How long a call may wait for other ranks, unless `with` says otherwise.
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept;

  // --- reductions ---

  /// Replaces `tensor` on every rank by the combination of all ranks' tensors.
  ///
  /// Shapes: any, the same number of elements everywhere; zero elements are allowed.
  /// Blocks: nothing; see `Work`.
  /// Throws: `c10::Error` for a tensor that is not a defined, dense tensor without gaps between
  /// its elements, for a dtype that `op` does not take, or for a closed group. Strides are the same
  /// everywhere.
  Work all_reduce(const at::Tensor& tensor, ReduceOp op = ReduceOp::Sum);

  /// Blocks of one tensor of registered memory, whose displacements may differ between ranks.
  /// Source: MPI_Type_indexed.
  struct IndexedBlocks {
    at::Tensor buffer;  ///< a whole tensor of `allocate`, one dimension
    /// Where each block begins in this rank's `buffer`, in elements. int64; a tensor of `allocate`
    /// or a part of one, the same part on all ranks.
    at::Tensor displacements;
    std::vector<std::int64_t> counts;  ///< elements of each block, the same on all ranks
  };
  /// Whether this group can reduce blocks of that tensor: on the CPU, where all ranks are on one
  /// host, or each is alone on its host.
  [[nodiscard]] bool can_reduce_indexed(const at::Tensor& buffer);
  /// Says that a tensor of `allocate` is the buffer of indexed blocks: every other call treats what
  /// lies in it as an ordinary tensor, which need not lie at the same place on all ranks. Throws:
  /// `c10::Error` where `can_reduce_indexed` says no.
  void mark_indexed(const at::Tensor& buffer);
  /// `all_reduce` of all blocks as one call, in place: for values that the program made where they
  /// are. Ranks read each other's `displacements`, which must not change until the work is
  /// complete. Blocks must not overlap.
  ///
  /// Throws: as `all_reduce`; `c10::Error` where `can_reduce_indexed` says no, or for a block that
  /// does not lie in `buffer`.
  Work all_reduce(const IndexedBlocks& blocks, ReduceOp op = ReduceOp::Sum);

  /// `all_reduce` for rank `root` alone; the tensors of the others stay as they are.
  ///
  /// Shapes: as `all_reduce`.
  /// Blocks: nothing; see `Work`.
  /// Throws: as `all_reduce`, and `c10::Error` for a `root` that the group does not have.
  Work reduce(const at::Tensor& tensor, int root = 0, ReduceOp op = ReduceOp::Sum);

  /// Combines all ranks' `input`, of which rank r gets part r.
  ///
  /// Shapes: `input.numel() == size() * output.numel()`, contiguous.
  /// Blocks: nothing; see `Work`.
  /// Throws: as `all_reduce`, and `c10::Error` for another shape or two dtypes.
  Work reduce_scatter(const at::Tensor& output, const at::Tensor& input,
                      ReduceOp op = ReduceOp::Sum);
  /// The same with one input tensor a rank; they may differ in size, but not between ranks.
  ///
  /// Shapes: `inputs[rank()].numel() == output.numel()`.
  /// Throws: also for another number of inputs than of ranks.
  Work reduce_scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                      ReduceOp op = ReduceOp::Sum);

  // --- several calls as one ---

  /// Makes the calls of `calls` as one: they start in their order, and the result is complete when
  /// all of them are. `calls` waits for none, so it calls no `barrier`, `allocate` or `split`.
  ///
  /// Blocks: nothing.
  /// Throws: what the calls throw; those before are under way then.
  Work coalesced(const std::function<void()>& calls);

  /// Options for all calls of this group until the scope ends; scopes nest.
  ///
  ///     const auto scope = group->with(CallOptions().name("loss").timeout(10s));
  ///
  /// Throws: `c10::Error` for a timeout that is not positive.
  CallScope with(CallOptions options);

  // --- messages between two ranks; any dtype, contiguous tensors ---
  // They wait for no collective, and no collective waits for them. Messages from one rank to
  // another under one tag arrive in the order of the calls.

  /// Sends `tensor` to rank `to`; complete when the tensor may be changed, whether or not it has
  /// been received.
  ///
  /// Blocks: nothing; see `Work`.
  /// Throws: `c10::Error` for a tag that is not from 0 to 32766, for a rank that the group does not
  /// have, or for a message to oneself.
  Work send(const at::Tensor& tensor, int to, int tag = 0);
  /// Receives from rank `from` what it sends under the same tag.
  ///
  /// Blocks: nothing; see `Work`.
  /// Throws: as `send`. Waiting throws `MismatchError` when a message of another dtype or number of
  /// elements comes.
  Work recv(const at::Tensor& tensor, int from, int tag = 0);

  // --- groups of some of these ranks ---
  // Their traffic never mixes with this group's, and each is closed for itself, in any order. They
  // have the same backend (a group of one rank: Single) and the same timeout.

  /// Divides the group: ranks with the same `color` form a group, in the order of `key`, then of
  /// rank. A negative color joins none and gets null.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks of this group call it, each with its own arguments.
  /// Throws: what a collective throws.
  /// Source: MPI_Comm_split, ncclCommSplit.
  [[nodiscard]] std::shared_ptr<ProcessGroup> split(int color, int key = 0);
  /// The group of these ranks, in this order; null on all others.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks of this group call it with the same list.
  /// Throws: `c10::Error` for a list that is empty, repeats a rank, or names one that there is not;
  /// `MismatchError` for lists that differ.
  [[nodiscard]] std::shared_ptr<ProcessGroup> new_group(const std::vector<int>& ranks);

  // --- data movement; any dtype, contiguous tensors ---

  /// Copies `tensor` of rank `root` into `tensor` of every other rank.
  ///
  /// Shapes: any, the same number of elements everywhere; zero elements are allowed.
  /// Blocks: nothing; see `Work`.
  /// Throws: `c10::Error` for a tensor that is not a defined, dense tensor without gaps between its
  /// elements, for a `root` that the group does not have, or for a closed group.
  Work broadcast(const at::Tensor& tensor, int root = 0);

  /// Places `input` of rank r at row r of `output`, on every rank.
  ///
  /// Shapes: `output.numel() == size() * input.numel()`. `input` may be row `rank()` of `output`.
  /// Blocks: nothing; see `Work`.
  /// Throws: `c10::Error` for another shape, two dtypes, tensors that overlap elsewhere, one that
  /// is not defined, dense and contiguous, or a closed group.
  Work all_gather(const at::Tensor& output, const at::Tensor& input);
  /// The same with one output tensor a rank; they may differ in size, but not between ranks.
  ///
  /// Shapes: `outputs[rank()].numel() == input.numel()`.
  /// Throws: also for another number of outputs than of ranks.
  Work all_gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input);

  /// As `all_gather`, for rank `root` alone; the others pass no outputs. All inputs are equally
  /// large.
  ///
  /// Shapes: on rank `root` one output for each rank, each of `input`'s number of elements.
  /// Blocks: nothing; see `Work`.
  /// Throws: as `all_gather`, for outputs on another rank, and for a `root` that the group does not
  /// have.
  Work gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input, int root = 0);

  /// Copies `inputs[r]` of rank `root` into `output` of rank r; the others pass no inputs. All
  /// inputs are equally large.
  ///
  /// Shapes: on rank `root` one input for each rank, each of `output`'s number of elements.
  /// Blocks: nothing; see `Work`.
  /// Throws: as `gather`, with inputs for outputs.
  Work scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs, int root = 0);

  /// Part i of `input` on rank r becomes part r of `output` on rank i; all parts are equally large.
  ///
  /// Shapes: `output.numel() == input.numel()`, a multiple of `size()`. They do not overlap.
  /// Blocks: nothing; see `Work`.
  /// Throws: as `all_gather`, and `c10::Error` for tensors that overlap.
  Work all_to_all(const at::Tensor& output, const at::Tensor& input);
  /// The same with `input_splits[i]` rows for rank i and `output_splits[r]` rows from rank r.
  ///
  /// Shapes: the splits add up to the sizes of the first dimensions; the rows are equally large.
  /// Throws: also for splits that are negative, or of another number than of ranks.
  Work all_to_all(const at::Tensor& output, const at::Tensor& input, at::IntArrayRef output_splits,
                  at::IntArrayRef input_splits);
  /// The same with one tensor for, and from, each rank.
  Work all_to_all(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs);

  /// Returns when every rank has called it.
  ///
  /// Blocks: the calling thread.
  /// Throws: what a collective throws, and `c10::Error` for a closed group.
  void barrier();
  /// The same as a `Work`, complete when every rank has called it. Other ranks may call `barrier`
  /// instead. It says nothing about what a device still does.
  ///
  /// Blocks: nothing; see `Work`.
  /// Throws: `c10::Error` for a closed group.
  /// Source: MPI_Ibarrier.
  Work barrier_async();

  /// A zeroed tensor in the memory that this backend reduces fastest: collectives on it copy
  /// nothing. The tensor keeps the memory alive, also after `close()`.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it with the same arguments.
  /// Throws: `CommError` on every rank when one of them lacks the memory, with the bytes wanted and
  /// free.
  [[nodiscard]] at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options);

  /// Finishes what is under way, messages included, waits for all ranks in a last barrier, and
  /// frees the resources. Calling it again does nothing.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: what a collective throws.
  void close();
  /// Whether `close` has been called.
  [[nodiscard]] bool is_closed() const noexcept;

  /// 1, 2, 3, ...: for the names of what shares this group. The same on ranks that ask equally
  /// often; exchanges nothing.
  [[nodiscard]] int next_number() noexcept;

  /// Does this rank's part of what is under way as far as it can be done now. Never blocks; errors
  /// appear in the `Work`. A program that computes for long between starting a collective and
  /// waiting for it can call this now and then. Does nothing while another thread is in the group,
  /// which is misuse that the next call reports.
  void progress() noexcept;

  // For the library itself, which alone knows what this is.
  /// @cond internal
  explicit ProcessGroup(std::shared_ptr<GroupCore> core);
  [[nodiscard]] GroupCore& core() const noexcept { return *core_; }
  /// @endcond

 private:
  std::shared_ptr<GroupCore> core_;  // a `Work` keeps it, too
};

}  // namespace lockstep
