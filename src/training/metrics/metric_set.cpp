// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/training/metric_set.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

namespace lockstep::training {
namespace {

/// A number below 2^16 that nearly always differs when texts do (FNV-1a, folded).
std::uint32_t small_digest(std::string_view text) {
  std::uint32_t digest = 2166136261U;
  for (const char character : text) {
    digest = (digest ^ static_cast<unsigned char>(character)) * 16777619U;
  }
  return (digest >> 16) ^ (digest & 0xFFFFU);
}

/// Whether all ranks had the same number, from its sum and the sum of its square: all of these are
/// whole numbers that doubles hold exactly, up to 8192 ranks.
bool are_equal(double sum, double sum_of_squares, int ranks) {
  const auto whole = static_cast<std::uint64_t>(sum);
  return whole * whole ==
         static_cast<std::uint64_t>(ranks) * static_cast<std::uint64_t>(sum_of_squares);
}

/// One all-reduce of all sums, and in front of them of what tells whether `text` is the same on all
/// ranks.
void reduce_sums(ProcessGroup& group, const std::vector<Metric*>& metrics,
                 const std::string& text) {
  const auto digest = static_cast<double>(small_digest(text));
  std::vector<at::Tensor> parts{at::tensor({digest, digest * digest}, at::kDouble)};
  for (const auto* metric : metrics) parts.push_back(metric->sums());
  const auto all = at::cat(parts);
  group.all_reduce(all, ReduceOp::Sum).wait();
  TORCH_CHECK(are_equal(all[0].item<double>(), all[1].item<double>(), group.size()),
              "the ranks reduce different metrics; rank ", group.rank(), " has: ", text);
  std::int64_t begin = 2;
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    const auto end = begin + parts[i + 1].numel();
    metrics[i]->set_sums(all.slice(0, begin, end));
    begin = end;
  }
}

}  // namespace

void reduce_in_place(ProcessGroup& group, const std::vector<Metric*>& metrics) {
  std::string text;
  for (const auto* metric : metrics) {
    TORCH_CHECK(metric != nullptr, "reduce_in_place: a pointer to a metric is null");
    text += metric->kind();
    text += "; ";
  }
  reduce_sums(group, metrics, text);
}

MetricSet& MetricSet::add(std::string name, Metric& metric) {
  TORCH_CHECK(!name.empty(), "MetricSet: a metric without a name");
  TORCH_CHECK(std::none_of(metrics_.begin(), metrics_.end(),
                           [&](const auto& known) { return known.first == name; }),
              "MetricSet: there is a metric '", name, "' already");
  metrics_.emplace_back(std::move(name), &metric);
  return *this;
}

std::map<std::string, double> MetricSet::compute(ProcessGroup& group) const {
  MetricSet copies;
  std::vector<std::unique_ptr<Metric>> owners;
  std::vector<Metric*> metrics;
  std::string text;
  for (const auto& [name, metric] : metrics_) {
    owners.push_back(metric->clone());
    metrics.push_back(owners.back().get());
    copies.metrics_.emplace_back(name, metrics.back());
    text += name + ": " + metric->kind() + "; ";
  }
  reduce_sums(group, metrics, text);
  return copies.compute();
}

std::map<std::string, double> MetricSet::compute() const {
  std::map<std::string, double> results;
  for (const auto& [name, metric] : metrics_) results.merge(metric->values(name));
  return results;
}

void MetricSet::reset() {
  for (const auto& [name, metric] : metrics_) metric->reset();
}

}  // namespace lockstep::training
