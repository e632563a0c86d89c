// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <c10/core/ScalarType.h>
#include <lockstep/tensor_parallel/full_state.h>
#include <lockstep/training/safetensors.h>

#include <exception>
#include <set>
#include <utility>
#include <vector>

#include "tensor_parallel/collective_step.h"
#include "tensor_parallel/shards.h"
#include "training/safetensors/name_list.h"
#include "training/safetensors/tied_tensors.h"

namespace lockstep::nn {
namespace {

using training::list_of;
using training::text_of;

at::Tensor bytes_of(const at::Tensor& tensor) {
  return tensor.contiguous().flatten().view(at::kByte);
}

/// Whether this rank's tensor has other bits than that of rank 0.
bool differs_from_first(const at::Tensor& tensor, const std::string& name, ProcessGroup& group) {
  const auto scope = group.with(CallOptions().name(call_name(name, tensor.sizes())));
  const at::Tensor first = tensor.clone(at::MemoryFormat::Contiguous);
  group.broadcast(first).wait();
  return tensor.numel() > 0 && !at::equal(bytes_of(first), bytes_of(tensor));
}

/// What all ranks should have alike.
std::vector<const StateEntry*> replicated_of(const ModelState& state) {
  std::vector<const StateEntry*> replicated;
  for (const StateEntry& entry : state.entries) {
    if (!entry.is_sharded()) replicated.push_back(&entry);
  }
  return replicated;
}

/// Throws on every rank where a tensor that all should have alike is not.
void check_replicated(const ModelState& state) {
  const auto replicated = replicated_of(state);
  const auto count = static_cast<std::int64_t>(replicated.size());
  for (const auto& group : state.groups) {
    const at::Tensor differs = at::zeros({count}, at::kLong);
    for (std::int64_t i = 0; i < count; ++i) {
      const StateEntry& entry = *replicated[static_cast<std::size_t>(i)];
      if (differs_from_first(entry.tensor.detach(), entry.name, *group)) differs[i].fill_(1);
    }
    group->all_reduce(differs, ReduceOp::Max).wait();
    std::vector<std::string> wrong;
    for (std::int64_t i = 0; i < count; ++i) {
      if (differs[i].item<std::int64_t>() != 0) {
        wrong.push_back(replicated[static_cast<std::size_t>(i)]->name);
      }
    }
    TORCH_CHECK(wrong.empty(), "these are no longer the same on all ", group->size(),
                " ranks of the tensor group: ", list_of(wrong),
                ". Layers that work on parts of a sequence need sum_gradients_of_sequence, and all "
                "ranks the same seed; broadcast_replicated gives all ranks those of the first");
  }
}

/// The full tensor, on the CPU; undefined where this rank gets none.
at::Tensor join_over_ranks(const StateEntry& entry, bool is_for_all) {
  ProcessGroup& group = *entry.group;
  const at::Tensor own = pad_shard(entry.tensor.detach().contiguous(), entry.how, group.size());
  const auto scope = group.with(CallOptions().name(call_name(entry.name, entry.full_shape())));
  if (is_for_all) {
    const at::Tensor rows = rows_for(own, group.size());
    group.all_gather(rows, own).wait();
    return join_shards(rows, entry.how).to(at::kCPU);
  }
  if (group.rank() != 0) {
    group.gather({}, own).wait();
    return {};
  }
  const at::Tensor rows = rows_for(own, group.size());
  group.gather(rows.unbind(0), own).wait();
  return join_shards(rows, entry.how).to(at::kCPU);
}

std::map<std::string, at::Tensor> collect(const ModelState& state, bool is_for_all) {
  const at::NoGradGuard no_grad;
  check_replicated(state);
  std::map<std::string, at::Tensor> full;
  std::map<const void*, at::Tensor> joined;  // tied tensors once
  for (const StateEntry& entry : state.entries) {
    const void* identity = entry.tensor.unsafeGetTensorImpl();
    if (!joined.contains(identity)) {
      joined[identity] = entry.is_sharded()
                             ? join_over_ranks(entry, is_for_all)
                             : entry.tensor.detach().to(at::kCPU, /*non_blocking=*/false,
                                                        /*copy=*/true);
    }
    full.emplace(entry.name, joined[identity]);
  }
  return full;
}

/// What a load compares and copies.
class FullLoad {
 public:
  FullLoad(const torch::nn::Module& module, const std::map<std::string, at::Tensor>& full,
           std::string source)
      : state_(survey(module)), full_(full), source_(std::move(source)) {}

  void run() const {
    check_names();
    check_tensors();
    const at::NoGradGuard no_grad;
    for (const StateEntry& entry : state_.entries) {
      const auto found = full_.find(entry.name);
      if (found == full_.end()) continue;
      const at::Tensor part =
          entry.is_sharded()
              ? cut_shard(found->second, entry.how, entry.group->rank(), entry.group->size())
              : found->second;
      entry.tensor.detach().copy_(part);
    }
  }

 private:
  void check_names() const {
    std::set<const void*> loaded;
    std::set<std::string> known;
    for (const StateEntry& entry : state_.entries) {
      known.insert(entry.name);
      if (full_.contains(entry.name)) loaded.insert(entry.tensor.unsafeGetTensorImpl());
    }
    std::vector<std::string> missing, unexpected;
    for (const StateEntry& entry : state_.entries) {
      if (!loaded.contains(entry.tensor.unsafeGetTensorImpl())) missing.push_back(entry.name);
    }
    for (const auto& [name, tensor] : full_) {
      if (!known.contains(name)) unexpected.push_back(name);
    }
    std::string text;
    if (!missing.empty()) text.append(" Missing there: ").append(list_of(missing)).append(".");
    if (!unexpected.empty()) {
      text.append(" Not in the module: ").append(list_of(unexpected)).append(".");
    }
    TORCH_CHECK(text.empty(), source_, ": its names are not those of the module.", text,
                " Nothing was loaded");
  }

  void check_tensors() const {
    std::vector<std::string> unfit;
    std::map<const void*, std::string> first;  // name of tied tensors
    for (const StateEntry& entry : state_.entries) {
      const auto found = full_.find(entry.name);
      if (found == full_.end()) continue;
      const at::Tensor& full = found->second;
      const auto shape = entry.full_shape();
      const auto from = full.scalar_type(), to = entry.tensor.scalar_type();
      std::string where = entry.name;
      if (full.sizes() != at::IntArrayRef(shape)) {
        where.append(" has shape ").append(text_of(full.sizes()));
        where.append(" there and, full, ").append(text_of(shape)).append(" in the module");
        unfit.push_back(where);
      } else if (from != to && !(c10::isFloatingType(from) && c10::isFloatingType(to))) {
        where.append(" is ").append(c10::toString(from)).append(" there and ");
        where.append(c10::toString(to)).append(" in the module");
        unfit.push_back(where);
      }
      const auto [tied, is_new] = first.emplace(entry.tensor.unsafeGetTensorImpl(), entry.name);
      TORCH_CHECK(is_new || at::equal(full_.at(tied->second), full), source_, ": the tensors ",
                  tied->second, " and ", entry.name,
                  " differ, and are one tensor in the module. Nothing was loaded");
    }
    TORCH_CHECK(unfit.empty(), source_, ": ", list_of(unfit), ". Nothing was loaded");
  }

  ModelState state_;
  const std::map<std::string, at::Tensor>& full_;
  std::string source_;
};

/// Tells all ranks whether the first one succeeded.
void share_outcome(const std::exception_ptr& error, const std::string& path, ProcessGroup& group) {
  const at::Tensor has_failed = at::zeros({1}, at::kLong);
  if (error) has_failed.fill_(1);
  {
    const auto scope = group.with(CallOptions().name("save_full"));
    group.broadcast(has_failed).wait();
  }
  if (error) std::rethrow_exception(error);
  TORCH_CHECK(has_failed.item<std::int64_t>() == 0, path,
              " could not be written; rank 0 of the tensor group says why");
}

}  // namespace

std::map<std::string, at::Tensor> full_state(const torch::nn::Module& module) {
  return collect(survey(module), /*is_for_all=*/true);
}

void broadcast_replicated(torch::nn::Module& module) {
  const at::NoGradGuard no_grad;
  const ModelState state = survey(module);
  for (const auto& group : state.groups) {
    for (const StateEntry* entry : replicated_of(state)) {
      const auto scope =
          group->with(CallOptions().name(call_name(entry->name, entry->tensor.sizes())));
      const at::Tensor first = entry->tensor.detach().clone(at::MemoryFormat::Contiguous);
      group->broadcast(first).wait();
      entry->tensor.detach().copy_(first);
    }
  }
}

void load_full_state(torch::nn::Module& module, const std::map<std::string, at::Tensor>& state) {
  FullLoad(module, state, "load_full_state").run();
}

void save_full(const torch::nn::Module& module, const std::filesystem::path& path) {
  const ModelState state = survey(module);
  TORCH_CHECK(state.groups.size() <= 1, "save_full: ", path.string(), ": the model's layers have ",
              state.groups.size(),
              " tensor groups, so that no rank gets all tensors; "
              "full_state gives them to every rank, one of which can save them");
  auto full = collect(state, /*is_for_all=*/false);
  if (state.groups.empty()) return training::save_with_tied(path, std::move(full), {});
  ProcessGroup& group = *state.groups.front();
  std::exception_ptr error;
  try {
    if (group.rank() == 0) training::save_with_tied(path, std::move(full), {});
  } catch (...) {
    error = std::current_exception();
  }
  share_outcome(error, path.string(), group);
}

void load_full(torch::nn::Module& module, const std::filesystem::path& path) {
  using namespace training;
  const auto full = load_safetensors(path, LoadSafetensorsOptions().memory_mapped(true));
  FullLoad(module, full, path.string()).run();
}

}  // namespace lockstep::nn
