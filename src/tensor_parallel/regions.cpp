// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/tensor_parallel/regions.h>

#include <utility>

#include "tensor_parallel/collective_step.h"

namespace lockstep::tensor_parallel {
namespace {

using Kind = CollectiveStep::Kind;

/// A group of one has no region, and needs no copy.
at::Tensor cross(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                 CollectiveStep forward, CollectiveStep backward, const char* name) {
  check_call(input, group, name);
  if (group->size() == 1) return input;
  return linear_collective(input, group, std::move(forward), std::move(backward), name);
}

}  // namespace

at::Tensor copy_to(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group) {
  return cross(input, group, {.kind = Kind::Identity}, {.kind = Kind::AllReduce}, "copy_to");
}

at::Tensor reduce_from(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group) {
  return cross(input, group, {.kind = Kind::AllReduce}, {.kind = Kind::Identity}, "reduce_from");
}

at::Tensor scatter_to(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                      std::int64_t dim) {
  return cross(input, group, {.kind = Kind::OwnPart, .dim = dim},
               {.kind = Kind::AllGather, .dim = dim}, "scatter_to");
}

at::Tensor gather_from(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                       std::int64_t dim) {
  return cross(input, group, {.kind = Kind::AllGather, .dim = dim},
               {.kind = Kind::OwnPart, .dim = dim}, "gather_from");
}

at::Tensor gather_from_sequence(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                                std::int64_t dim) {
  return cross(input, group, {.kind = Kind::AllGather, .dim = dim},
               {.kind = Kind::ReduceScatter, .dim = dim}, "gather_from_sequence");
}

at::Tensor reduce_scatter_to_sequence(const at::Tensor& input,
                                      const std::shared_ptr<ProcessGroup>& group,
                                      std::int64_t dim) {
  return cross(input, group, {.kind = Kind::ReduceScatter, .dim = dim},
               {.kind = Kind::AllGather, .dim = dim}, "reduce_scatter_to_sequence");
}

at::Tensor all_to_all(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                      std::int64_t split_dim, std::int64_t concat_dim) {
  return cross(input, group, {.kind = Kind::Exchange, .dim = split_dim, .other_dim = concat_dim},
               {.kind = Kind::Exchange, .dim = concat_dim, .other_dim = split_dim}, "all_to_all");
}

}  // namespace lockstep::tensor_parallel
