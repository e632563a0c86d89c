// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/module_state.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
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

}  // namespace

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
    if (!at::isFloatingType(tensor.scalar_type())) {
      whole.emplace_back(name, tensor);
    } else if (counts) {
      parts.push_back(tensor.detach().to(at::kCPU, at::kDouble).flatten());
    } else {
      parts.push_back(at::zeros({tensor.numel()}, at::kDouble));
    }
  }
  const at::Tensor sums = at::cat(parts);
  group.all_reduce(sums).wait();
  sums.div_(sums[0].item<double>());
  std::int64_t offset = 1;
  for (const auto& [name, tensor] : tensors) {
    if (!at::isFloatingType(tensor.scalar_type())) continue;
    tensor.detach().copy_(sums.narrow(0, offset, tensor.numel()).view(tensor.sizes()));
    offset += tensor.numel();
  }
  broadcast_tensors(group, whole, root);
}

void broadcast_tensors(ProcessGroup& group, const NamedTensors& tensors, int root) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor values = tensor.detach();
    if (values.device().is_cpu() && values.is_non_overlapping_and_dense()) {
      group.broadcast(values, root).wait();
    } else {
      const at::Tensor staged = values.to(at::kCPU).contiguous();
      group.broadcast(staged, root).wait();
      values.copy_(staged);
    }
  }
}

}  // namespace lockstep
