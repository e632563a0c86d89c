// SPDX-License-Identifier: BSD-3-Clause
// Workers that are a fresh run of the program: for libraries that do not live through a fork.
#include "data/loader/spawned_worker.h"

#include <lockstep/data/loader/dataset_registry.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "data/loader/batch_worker.h"
#include "data/loader/shared_layout.h"
#include "native/posix/output_buffers.h"
#include "native/posix/reexec.h"
#include "workers/run_worker.h"

namespace lockstep::data {
namespace detail {
namespace {

constexpr const char* kVariable = "LOCKSTEP_DATA_WORKER";

struct JobWords {
  std::uint64_t name_bytes = 0;
  std::uint64_t config_bytes = 0;
  std::uint64_t cpus = 0;
  std::uint64_t seed = 0;
  std::uint32_t has_rows = 0;
  std::uint32_t is_iterable = 0;
  BatchFacts facts;
};

}  // namespace

std::string describe_job(const WorkerJob& job, const std::string& dataset,
                         const std::string& config) {
  JobWords words;
  words.name_bytes = dataset.size();
  words.config_bytes = config.size();
  words.cpus = job.cpus.size();
  words.seed = job.seed;
  words.has_rows = job.source.has_rows ? 1 : 0;
  words.is_iterable = job.source.open ? 1 : 0;
  words.facts = job.facts;
  std::string bytes(reinterpret_cast<const char*>(&words), sizeof(words));
  bytes += dataset + config;
  bytes.append(reinterpret_cast<const char*>(job.cpus.data()), job.cpus.size() * sizeof(int));
  return bytes;
}

void become_worker(const workers::TaskChannel&, int descriptor, std::size_t worker) {
  native::reexec_self(std::string(kVariable) + "=" + std::to_string(descriptor) + ":" +
                          std::to_string(worker) + ":" + std::to_string(::getppid()),
                      descriptor);
}

bool is_spawned_worker() {
  return std::getenv(kVariable) != nullptr;
}

namespace {

struct Place {
  int descriptor = -1;
  std::size_t worker = 0;
  int fork_server = 0;
};

Place read_place(const char* text) {
  Place place;
  char colon = 0;
  char other = 0;
  std::istringstream stream(text);
  stream >> place.descriptor >> colon >> place.worker >> other >> place.fork_server;
  TORCH_CHECK(stream && colon == ':' && other == ':' && place.descriptor > STDERR_FILENO, kVariable,
              " is '", text, "', which the loader did not write");
  return place;
}

WorkerJob read_job(std::shared_ptr<workers::TaskChannel> channel, const DatasetRegistry& registry) {
  const auto size = static_cast<std::size_t>(SharedLayout::of(*channel).job_bytes);
  const std::byte* bytes = SharedLayout::job(*channel);
  JobWords words;
  TORCH_CHECK(size >= sizeof(words), "the loader's description of this worker is damaged");
  std::memcpy(&words, bytes, sizeof(words));
  TORCH_CHECK(
      words.name_bytes <= size && words.config_bytes <= size && words.cpus <= size &&
          sizeof(words) + words.name_bytes + words.config_bytes + words.cpus * sizeof(int) == size,
      "the loader's description of this worker is damaged");
  const auto* text = reinterpret_cast<const char*>(bytes) + sizeof(words);
  const std::string name(text, words.name_bytes);
  const std::string config(text + words.name_bytes, words.config_bytes);
  WorkerJob job;
  job.channel = std::move(channel);
  job.facts = words.facts;
  job.seed = words.seed;
  job.cpus.resize(words.cpus);
  if (!job.cpus.empty()) {
    std::memcpy(job.cpus.data(), text + words.name_bytes + words.config_bytes,
                words.cpus * sizeof(int));
  }
  job.source = registry.make(name, config);
  TORCH_CHECK((job.source.has_rows ? 1U : 0U) == words.has_rows &&
                  (job.source.open ? 1U : 0U) == words.is_iterable &&
                  (job.source.start || job.facts.in_flight == 0),
              "the registry's dataset '", name,
              "' is of another kind than the loader's; both must have the same dataset and "
              "collate function");
  return job;
}

}  // namespace
}  // namespace detail

detail::SampleSource DatasetRegistry::make(const std::string& name,
                                           const std::string& config) const {
  const auto found = makers_.find(name);
  if (found == makers_.end()) {
    std::string known;
    for (const auto& entry : makers_) known += " '" + entry.first + "'";
    TORCH_CHECK(false, "DatasetRegistry: there is no dataset '", name, "', only:", known);
  }
  return found->second(config);
}

void DatasetRegistry::add_source(const std::string& name, Make make) {
  const bool is_new = makers_.emplace(name, std::move(make)).second;
  TORCH_CHECK(is_new, "DatasetRegistry: there is a dataset '", name, "' already");
}

std::optional<int> maybe_worker_main(const DatasetRegistry& registry) {
  const char* text = std::getenv(detail::kVariable);
  if (text == nullptr) return std::nullopt;
  const auto place = detail::read_place(text);
  // The fork server may have gone before this line.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != place.fork_server) return 0;
  auto channel = std::make_shared<workers::TaskChannel>(native::FileDescriptor(place.descriptor));
  TORCH_CHECK(place.worker < channel->workers(), detail::kVariable, " is '", text,
              "', which the loader did not write");
  workers::WorkerProgram program;
  program.run = [&](std::size_t worker) {
    const auto job = detail::read_job(channel, registry);
    detail::BatchWorker(job, worker).run();
  };
  const int status =
      workers::run_worker(channel->table().workers[place.worker], program, place.worker);
  // The program's way out may take longer than a worker is given.
  native::write_pending_output();
  return status;
}

}  // namespace lockstep::data
