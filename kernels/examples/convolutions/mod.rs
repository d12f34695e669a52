//! What the examples that time convolutions share.

use pinhole_kernels::check;

/// Prints the kernels and `header`, and calls `run` for each of `shapes`, with the number of iterations that the command line has
/// first, in as many threads as it has second, or one.
pub(crate) fn for_each<const N: usize>(
    shapes: &[[usize; N]],
    header: &str,
    run: fn([usize; N], iterations: usize),
) {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let (Some(Ok(iterations)), Ok(threads)) = (arguments.next(), arguments.next().unwrap_or(Ok(1)))
    else {
        eprintln!("error: expected the number of iterations, and optionally of threads");
        std::process::exit(2);
    };
    let name = check().unwrap_or_else(|e| {
        eprintln!("error: {e}");
        std::process::exit(1);
    });
    println!("{name}, {threads} threads");
    println!("{header}");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a thread pool");
    pool.install(|| {
        for shape in shapes {
            run(*shape, iterations);
        }
    });
}
