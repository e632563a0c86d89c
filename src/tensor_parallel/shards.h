// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/tensor_parallel/sharded_module.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::nn {

/// What this rank keeps of a full tensor: its piece of each part along `how.dim`. Shares no memory
/// with it. Throws: `c10::Error` for a size that the ranks do not divide, unless `how` has one.
[[nodiscard]] at::Tensor cut_shard(const at::Tensor& full, const ShardedTensor& how, int rank,
                                   int ranks);

/// A shard as it travels: as large as the largest one. Shares its memory where it is one.
[[nodiscard]] at::Tensor pad_shard(const at::Tensor& own, const ShardedTensor& how, int ranks);

/// The full tensor, of the padded shards of all ranks: row r of `shards` is rank r's.
[[nodiscard]] at::Tensor join_shards(const at::Tensor& shards, const ShardedTensor& how);

/// Throws: `c10::Error` where the ranks cannot share `size` in `parts` parts; `name` says what it
/// is of.
void check_divides(std::int64_t size, std::int64_t parts, int ranks, const std::string& name);

/// A parameter or buffer of a model.
struct StateEntry {
  std::string name;
  at::Tensor tensor;
  ShardedTensor how;                    // where it has a group
  std::shared_ptr<ProcessGroup> group;  // null: all ranks have it whole

  [[nodiscard]] bool is_sharded() const { return group != nullptr; }
  [[nodiscard]] std::vector<std::int64_t> full_shape() const;
};

/// What a model consists of.
struct ModelState {
  std::vector<StateEntry> entries;                    // by name; tied tensors several times
  std::vector<std::shared_ptr<ProcessGroup>> groups;  // of its layers, each once, in order
};

/// Throws: `c10::Error` for a sharded tensor that its module does not have, and for a tensor that
/// two modules cut in different ways.
[[nodiscard]] ModelState survey(const torch::nn::Module& module);

}  // namespace lockstep::nn
