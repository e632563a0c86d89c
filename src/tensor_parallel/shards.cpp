// SPDX-License-Identifier: BSD-3-Clause
#include "tensor_parallel/shards.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "tensor_parallel/share.h"

namespace lockstep::nn {
namespace {

/// "a.b" or "b".
std::string join_names(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

struct Sharding {
  ShardedTensor how;
  std::shared_ptr<ProcessGroup> group;
};
using Shardings = std::map<const void*, Sharding>;  // by TensorImpl, since tied weights have names

at::Tensor tensor_of(const torch::nn::Module& module, const std::string& name) {
  const auto parameters = module.named_parameters(/*recurse=*/false);
  if (const auto* found = parameters.find(name)) return *found;
  const auto buffers = module.named_buffers(/*recurse=*/false);
  if (const auto* found = buffers.find(name)) return *found;
  return {};
}

void check_cut(const at::Tensor& tensor, const ShardedTensor& how, const ProcessGroup& group,
               const std::string& name) {
  TORCH_CHECK(how.dim >= 0 && how.dim < tensor.dim(), name, " is said to be cut along dimension ",
              how.dim, "; its dimensions are from 0 to ", tensor.dim() - 1);
  const auto size = tensor.size(how.dim);
  TORCH_CHECK(how.parts > 0 && size % how.parts == 0, name, " is said to have ", how.parts,
              " parts; this rank's size along dimension ", how.dim, ", ", size,
              ", must be a multiple of a positive number of parts");
  if (how.full_size == 0) return;
  TORCH_CHECK(how.parts == 1, name, " is said to have a full size and ", how.parts,
              " parts; what is not cut equally has one");
  const auto expected = share_of(how.full_size, group.rank(), group.size()).size;
  TORCH_CHECK(size == expected, name, " is said to have the full size ", how.full_size,
              " along dimension ", how.dim, ", of which rank ", group.rank(), " of ", group.size(),
              " has ", expected, "; its size is ", size);
}

std::int64_t full_size_of(const at::Tensor& tensor, const ShardedTensor& how, int ranks) {
  return how.full_size > 0 ? how.full_size : tensor.size(how.dim) * ranks;
}

void add_shardings(const torch::nn::Module& module, const std::string& path, ModelState& state,
                   Shardings& shardings) {
  const auto* sharded = dynamic_cast<const ShardedModule*>(&module);
  if (sharded == nullptr) return;
  const auto& group = sharded->tensor_group();
  TORCH_CHECK(group != nullptr, "the module ", path, " has no tensor group");
  if (std::find(state.groups.begin(), state.groups.end(), group) == state.groups.end()) {
    state.groups.push_back(group);
  }
  for (const ShardedTensor& how : sharded->sharded_tensors()) {
    const at::Tensor tensor = tensor_of(module, how.name);
    TORCH_CHECK(tensor.defined(), "the module ", path, " says that it cuts ", how.name,
                ", and has no parameter or buffer of that name");
    check_cut(tensor, how, *group, join_names(path, how.name));
    const auto [at, is_new] = shardings.emplace(tensor.unsafeGetTensorImpl(), Sharding{how, group});
    if (is_new) continue;
    const ShardedTensor& other = at->second.how;
    const bool is_alike =
        other.dim == how.dim && other.parts == how.parts &&
        full_size_of(tensor, other, group->size()) == full_size_of(tensor, how, group->size());
    TORCH_CHECK(is_alike && at->second.group == group, join_names(path, how.name),
                " is cut in two different ways");
  }
}

}  // namespace

void check_divides(std::int64_t size, std::int64_t parts, int ranks, const std::string& name) {
  TORCH_CHECK(parts > 0 && size > 0 && size % (parts * ranks) == 0, name, " is ", size, ", which ",
              ranks, " ranks cannot share equally", parts > 1 ? " in " : "",
              parts > 1 ? std::to_string(parts) + " parts" : "", "; it must be a multiple of ",
              parts * ranks);
}

at::Tensor cut_shard(const at::Tensor& full, const ShardedTensor& how, int rank, int ranks) {
  const auto size = full.size(how.dim);
  if (how.full_size > 0) {
    TORCH_CHECK(size == how.full_size, "dimension ", how.dim, " of the full ", how.name, " is ",
                size, "; it must be ", how.full_size);
    const Share own = share_of(size, rank, ranks);
    return full.narrow(how.dim, own.first, own.size).clone(at::MemoryFormat::Contiguous);
  }
  std::string place = "dimension ";
  place += std::to_string(how.dim) + " of the full ";
  check_divides(size, how.parts, ranks, place += how.name);
  return full.unflatten(how.dim, {how.parts, ranks, size / (how.parts * ranks)})
      .select(how.dim + 1, rank)
      .flatten(how.dim, how.dim + 1)
      .clone(at::MemoryFormat::Contiguous);
}

at::Tensor pad_shard(const at::Tensor& own, const ShardedTensor& how, int ranks) {
  const auto largest = share_of(how.full_size, 0, ranks).size;
  if (how.full_size == 0 || own.size(how.dim) == largest) return own;
  auto shape = own.sizes().vec();
  shape[static_cast<std::size_t>(how.dim)] = largest;
  at::Tensor padded = at::zeros(shape, own.options());
  padded.narrow(how.dim, 0, own.size(how.dim)).copy_(own);
  return padded;
}

at::Tensor join_shards(const at::Tensor& shards, const ShardedTensor& how) {
  if (how.full_size > 0) {
    const auto ranks = static_cast<int>(shards.size(0));
    std::vector<at::Tensor> pieces;
    for (int rank = 0; rank < ranks; ++rank) {
      pieces.push_back(shards[rank].narrow(how.dim, 0, share_of(how.full_size, rank, ranks).size));
    }
    return at::cat(pieces, how.dim);
  }
  const auto own = shards.size(how.dim + 1);
  return shards.unflatten(how.dim + 1, {how.parts, own / how.parts})
      .movedim(0, how.dim + 1)
      .flatten(how.dim, how.dim + 2)
      .contiguous();
}

std::vector<std::int64_t> StateEntry::full_shape() const {
  auto shape = tensor.sizes().vec();
  if (is_sharded()) {
    shape[static_cast<std::size_t>(how.dim)] = full_size_of(tensor, how, group->size());
  }
  return shape;
}

ModelState survey(const torch::nn::Module& module) {
  ModelState state;
  Shardings shardings;
  // `named_modules` wants a module that a shared_ptr holds, which a reference need not be.
  add_shardings(module, "", state, shardings);
  const std::function<void(const torch::nn::Module&, const std::string&)> visit =
      [&](const torch::nn::Module& parent, const std::string& path) {
        for (const auto& child : parent.named_children()) {
          const std::string name = join_names(path, child.key());
          add_shardings(*child.value(), name, state, shardings);
          visit(*child.value(), name);
        }
      };
  visit(module, "");
  std::map<std::string, StateEntry> by_name;
  const auto add = [&](const auto& named) {
    for (const auto& item : named) {
      if (!item.value().defined()) continue;
      StateEntry entry{item.key(), item.value(), {}, nullptr};
      const auto found = shardings.find(item.value().unsafeGetTensorImpl());
      if (found != shardings.end()) {
        entry.how = found->second.how;
        entry.group = found->second.group;
      }
      by_name.emplace(item.key(), std::move(entry));
    }
  };
  add(module.named_parameters());
  add(module.named_buffers());
  for (auto& [name, entry] : by_name) state.entries.push_back(std::move(entry));
  return state;
}

}  // namespace lockstep::nn
