// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/module_state.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>
#include <ATen/ops/zeros.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cstring>
#include <sstream>

namespace lockstep {
namespace {

std::vector<std::string> describe(const std::string& problem, const std::string& settings,
                                  const NamedTensors& tensors) {
  std::vector<std::string> lines{problem, settings};
  if (!problem.empty()) return lines;  // odd tensors have no sizes or strides to be shown
  for (const auto& [name, tensor] : tensors) {
    std::ostringstream line;
    line << "'" << name << "' " << tensor.scalar_type() << " " << tensor.sizes() << " strides "
         << tensor.strides() << (tensor.requires_grad() ? "" : " (no gradient)");
    lines.push_back(std::move(line).str());
  }
  return lines;
}

std::string join(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text.append(line).push_back('\n');
  return text;
}

/// The texts of all ranks.
std::vector<std::string> gather_texts(ProcessGroup& group, const std::string& text) {
  const auto ranks = group.size();
  const auto own_length = at::zeros({1}, at::kLong).fill_(static_cast<std::int64_t>(text.size()));
  const auto lengths = at::empty({ranks}, at::kLong);
  group.all_gather(lengths, own_length).wait();
  const auto longest = lengths.max().item<std::int64_t>();
  const auto own = at::zeros({longest}, at::kByte);
  std::memcpy(own.data_ptr(), text.data(), text.size());
  const auto all = at::empty({ranks, longest}, at::kByte);
  group.all_gather(all, own).wait();
  std::vector<std::string> texts;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const auto row = all[rank];
    texts.emplace_back(static_cast<const char*>(row.const_data_ptr()),
                       static_cast<std::size_t>(lengths[rank].item<std::int64_t>()));
  }
  return texts;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string line_or_nothing(const std::vector<std::string>& lines, std::size_t index) {
  return index < lines.size() ? lines[index] : "nothing more";
}

/// What makes it impossible to write the values of another rank to a tensor; nothing as a rule.
std::string obstacle_of(const at::Tensor& tensor) {
  if (tensor.is_nested()) return "is a nested tensor";
  if (tensor.layout() != at::kStrided) return c10::str("has layout ", tensor.layout());
  if (tensor.is_meta()) return "is on the device meta, where there are no values";
  if (tensor.is_quantized()) return c10::str("is quantized (", tensor.scalar_type(), ")");
  if (at::has_internal_overlap(tensor) != at::MemOverlap::Yes) return "";
  return c10::str("of sizes ", tensor.sizes(), " is expanded (strides ", tensor.strides(),
                  "), so that several of its elements are one place in memory");
}

bool has_mean(const at::Tensor& tensor) {
  return at::isFloatingType(tensor.scalar_type()) || at::isComplexType(tensor.scalar_type());
}

/// Its values as doubles, two for a complex number.
at::Tensor as_doubles(const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().to(at::kCPU).resolve_conj().resolve_neg();
  return (values.is_complex() ? at::view_as_real(values) : values).to(at::kDouble).flatten();
}

std::int64_t doubles_of(const at::Tensor& tensor) {
  return tensor.is_complex() ? 2 * tensor.numel() : tensor.numel();
}

void set_to_doubles(const at::Tensor& tensor, const at::Tensor& doubles) {
  if (tensor.is_complex()) {
    const at::Tensor pairs = doubles.view({-1, 2}).clone();  // not anywhere within the sums
    tensor.detach().copy_(at::view_as_complex(pairs).view(tensor.sizes()));
  } else {
    tensor.detach().copy_(doubles.view(tensor.sizes()));
  }
}

}  // namespace

std::vector<at::Tensor> tensors_in(const NamedTensors& tensors) {
  std::vector<at::Tensor> values;
  for (const auto& [name, tensor] : tensors) values.push_back(tensor);
  return values;
}

std::vector<std::string> names_in(const NamedTensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

void check_can_be_shared(const char* kind, const std::string& name, const at::Tensor& tensor) {
  const std::string obstacle = obstacle_of(tensor);
  TORCH_CHECK(
      obstacle.empty(), "DistributedDataParallel: ", kind, " '", name, "' ", obstacle,
      "; it cannot be made the same on all ranks. Make it an ordinary dense tensor (to_dense(), "
      "contiguous()), or leave it to each rank by its name in ignored_names");
}

CommContext context_of(const ProcessGroup& group) {
  CommContext context;
  context.backend = to_string(group.backend());
  context.op = kWrapper;
  context.rank = group.rank();
  context.world_size = group.size();
  return context;
}

void check_same_on_all_ranks(ProcessGroup& group, const std::string& problem,
                             const std::string& settings, const NamedTensors& tensors) {
  const auto texts = gather_texts(group, join(describe(problem, settings, tensors)));
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    const std::string found = texts[rank].substr(0, texts[rank].find('\n'));
    TORCH_CHECK(found.empty(), found, " (on rank ", rank, ")");
  }
  for (std::size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    const auto expected = split(texts[0]);
    const auto found = split(texts[rank]);
    const auto end = std::min(expected.size(), found.size());
    std::size_t line = 0;
    while (line < end && expected[line] == found[line]) ++line;
    throw MismatchError(context_of(group),
                        "rank 0 has " + line_or_nothing(expected, line) + ", rank " +
                            std::to_string(rank) + " has " + line_or_nothing(found, line),
                        "all ranks must wrap the same model with the same options");
  }
}

void average_tensors(ProcessGroup& group, const NamedTensors& tensors, bool counts, int root) {
  const at::NoGradGuard no_grad;
  NamedTensors whole;
  std::vector<at::Tensor> parts{at::full({1}, counts ? 1.0 : 0.0, at::kDouble)};
  for (const auto& [name, tensor] : tensors) {
    check_can_be_shared("buffer", name, tensor);
    if (!has_mean(tensor)) {
      whole.emplace_back(name, tensor);
    } else if (counts) {
      parts.push_back(as_doubles(tensor));
    } else {
      parts.push_back(at::zeros({doubles_of(tensor)}, at::kDouble));
    }
  }
  const at::Tensor sums = at::cat(parts);
  group.all_reduce(sums).wait();
  sums.div_(sums[0].item<double>());
  std::int64_t offset = 1;
  for (const auto& [name, tensor] : tensors) {
    if (!has_mean(tensor)) continue;
    set_to_doubles(tensor, sums.narrow(0, offset, doubles_of(tensor)));
    offset += doubles_of(tensor);
  }
  broadcast_tensors(group, whole, root);
}

void broadcast_tensors(ProcessGroup& group, const NamedTensors& tensors, int root) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) {
    check_can_be_shared("parameter or buffer", name, tensor);
    const at::Tensor values = tensor.detach();
    // A rank that had these values already has no other graph than the others: what they must not
    // use any more, it does not use either.
    if (group.rank() == root && !tensor.is_inference()) {
      tensor.unsafeGetTensorImpl()->bump_version();
    }
    const bool shows_its_memory = !values.is_conj() && !values.is_neg();
    if (values.device().is_cpu() && values.is_non_overlapping_and_dense() && shows_its_memory) {
      group.broadcast(values, root).wait();
    } else {
      const at::Tensor staged = values.to(at::kCPU).resolve_conj().resolve_neg().contiguous();
      group.broadcast(staged, root).wait();
      values.copy_(staged);
    }
  }
}

}  // namespace lockstep
