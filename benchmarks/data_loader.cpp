// SPDX-License-Identifier: BSD-3-Clause
//
// The C++ side of the data_loader benchmark; data_loader_driver.py starts it and reads what it
// prints.

#include <lockstep/data/readers/idx_dataset.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "loader_measurement.h"
#include "loader_workloads.h"
#include "photographs.h"

namespace {

struct Settings {
  std::string workload = "fmnist";
  std::string root;
  std::vector<std::int64_t> workers = {0, 1, 2};
  bench::LoaderSettings loader;
};

nlohmann::json measure(const Settings& settings, std::int64_t workers) {
  auto loader = settings.loader;
  loader.workers = workers;
  if (settings.workload == "fmnist") {
    const auto part = settings.root + "/train-";
    return bench::LoaderMeasurement(lockstep::data::IdxDataset(part + "images-idx3-ubyte.gz",
                                                               part + "labels-idx1-ubyte.gz"),
                                    loader)
        .run();
  }
  if (settings.workload == "jpeg") {
    return bench::LoaderMeasurement(bench::photographs(settings.root), loader).run();
  }
  return bench::LoaderMeasurement(bench::SyntheticImages(), loader).run();
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::int64_t photographs = 0;
  int quality = 90;
  bool wants_description = false;
  CLI::App app("The C++ side of the data_loader benchmark");
  app.add_flag("--describe", wants_description, "Print the versions in use and stop");
  app.add_option("--make-photographs", photographs, "Write so many JPEG files and stop");
  app.add_option("--quality", quality, "Of these files")->check(CLI::Range(1, 100));
  app.add_option("--workload", settings.workload)
      ->check(CLI::IsMember({"fmnist", "synthetic", "jpeg"}));
  app.add_option("--root", settings.root, "Folder of the files");
  app.add_option("--kind", settings.loader.kind)->check(CLI::IsMember({"process", "thread"}));
  app.add_option("--workers", settings.workers, "Numbers of workers, one after the other");
  app.add_option("--batch", settings.loader.batch, "Samples")->check(CLI::PositiveNumber);
  app.add_option("--seconds", settings.loader.seconds, "Timed for at least so long");
  app.add_option("--deliveries", settings.loader.deliveries, "Of batches that are ready");
  CLI11_PARSE(app, argc, argv);
  try {
    if (wants_description) {
      std::cout << "torch " << TORCH_VERSION << '\n';
    } else if (photographs > 0) {
      bench::make_photographs(settings.root, photographs, quality);
    } else {
      at::set_num_threads(1);
      auto figures = nlohmann::json::array();
      for (const auto workers : settings.workers) figures.push_back(measure(settings, workers));
      std::cout << figures.dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << "data_loader: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
