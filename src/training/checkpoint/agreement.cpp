// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/agreement.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <cstring>
#include <exception>

#include "core/exception_text.h"

namespace lockstep::training {
namespace {

std::int64_t broadcast_number(ProcessGroup& group, std::int64_t number, int root) {
  const at::Tensor tensor = at::full({1}, number, at::kLong);
  group.broadcast(tensor, root).wait();
  return tensor.item<std::int64_t>();
}

std::string broadcast(ProcessGroup& group, std::string text, int root) {
  const auto bytes = broadcast_number(group, static_cast<std::int64_t>(text.size()), root);
  if (bytes == 0) return "";
  const at::Tensor tensor = at::empty({bytes}, at::kByte);
  if (group.rank() == root) std::memcpy(tensor.mutable_data_ptr(), text.data(), text.size());
  group.broadcast(tensor, root).wait();
  return {static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::size_t>(bytes)};
}

}  // namespace

std::string broadcast_text(ProcessGroup& group, std::string text) {
  return broadcast(group, std::move(text), 0);
}

std::string first_failure(ProcessGroup& group, const std::string& own) {
  const at::Tensor lowest = at::full({1}, own.empty() ? group.size() : group.rank(), at::kLong);
  group.all_reduce(lowest, ReduceOp::Min).wait();
  const auto root = static_cast<int>(lowest.item<std::int64_t>());
  if (root == group.size()) return "";
  const std::string text = broadcast(group, own, root);
  return group.size() == 1 ? text : "rank " + std::to_string(root) + ": " + text;
}

std::string failure_of(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (...) {
    const std::string text = exception_text(std::current_exception(), "");
    return text.empty() ? "an error without a text" : text;
  }
}

}  // namespace lockstep::training
