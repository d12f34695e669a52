//! CoCoOp's cheaper modes compared with the exact one, and refused input.

use pinhole_model::{ClassPosition, PromptLearner, Tensor};
use pinhole_prompts::conditional::{
    Auto, Costs, Fit, FitOptions, LinearHead, LinearTerms, Plan, Reuse, fidelity, fit, shortlist,
};
use pinhole_prompts::{Classes, Conditional, Error, TextEncoder, Tokenizer};

use crate::common::Golden;

const EMBEDDING: usize = 24;

/// CoCoOp on the golden encoder, with the golden shift times `strength`.
fn conditional(strength: f32) -> (TextEncoder, Conditional) {
    let golden = Golden::read();
    let mut learner = golden.cocoop();
    let net = learner.meta_net.as_mut().unwrap();
    for tensor in [&mut net.linear2_weight, &mut net.linear2_bias] {
        tensor.data.iter_mut().for_each(|w| *w *= strength);
    }
    let encoder = golden.encoder();
    let conditional =
        Conditional::new(&encoder, &Tokenizer::new(), &golden.classes(), &learner).unwrap();
    (encoder, conditional)
}

/// Embeddings [count, D] around a common direction, as those of images are.
fn images(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut value = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut all: Vec<f32> = (0..count * EMBEDDING)
        .map(|i| value() + 0.3 * ((i % EMBEDDING) as f32).sin())
        .collect();
    for image in all.chunks_exact_mut(EMBEDDING) {
        pinhole_kernels::l2_normalize(image);
    }
    all
}

fn fitted(
    encoder: &TextEncoder,
    conditional: &Conditional,
    images: &[f32],
    options: FitOptions,
) -> Fit {
    let mut calls = Vec::new();
    let mut progress = |done, all| calls.push((done, all));
    let fit = fit(conditional, encoder, images, options, &mut progress).unwrap();
    let all = images.len() / EMBEDDING;
    assert_eq!(calls, (0..=all).map(|done| (done, all)).collect::<Vec<_>>());
    assert_eq!(fit.images, all);
    fit
}

fn head(conditional: &Conditional, terms: &LinearTerms) -> LinearHead {
    LinearHead::new(terms, conditional.classes().len(), conditional.hidden_len()).unwrap()
}

/// Options for a head that is not reduced.
const WHOLE: FitOptions = FitOptions {
    unexplained: 0.0,
    most_terms: usize::MAX,
};

/// Solves a x = b for columns of b by Gaussian elimination.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs()));
        a.swap(i, pivot.unwrap());
        b.swap(i, pivot.unwrap());
        for j in (0..n).filter(|&j| j != i) {
            let factor = a[j][i] / a[i][i];
            let (row, column) = (a[i].clone(), b[i].clone());
            a[j].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
            b[j].iter_mut()
                .zip(column)
                .for_each(|(x, y)| *x -= factor * y);
        }
    }
    for (a, b) in a.iter().enumerate().map(|(i, a)| a[i]).zip(&mut b) {
        b.iter_mut().for_each(|x| *x /= a);
    }
    b
}

/// If this fails, the head is not the ridge regression of the exact class embeddings on the hidden vectors.
#[test]
fn an_unreduced_head_is_the_solution_of_the_normal_equations() {
    let (encoder, conditional) = conditional(1.0);
    let hidden = conditional.hidden_len();
    for count in [3, 40] {
        let calibration = images(count, 1);
        let fit = fitted(&encoder, &conditional, &calibration, WHOLE);
        assert!(fit.unexplained < 1e-9, "{}", fit.unexplained);
        let head = head(&conditional, &fit.terms);

        let rows = || calibration.chunks(EMBEDDING);
        let h: Vec<Vec<f32>> = rows().map(|f| conditional.hidden(f).unwrap()).collect();
        let exact: Vec<Vec<f32>> = rows()
            .map(|f| conditional.exact(&encoder, f, None).unwrap())
            .collect();
        let mean = |all: &[Vec<f32>], i: usize| {
            all.iter().map(|x| f64::from(x[i])).sum::<f64>() / count as f64
        };
        let centred = |all: &[Vec<f32>]| -> Vec<Vec<f64>> {
            let means: Vec<f64> = (0..all[0].len()).map(|i| mean(all, i)).collect();
            let row = |x: &Vec<f32>| {
                x.iter()
                    .zip(&means)
                    .map(|(x, m)| f64::from(*x) - m)
                    .collect()
            };
            all.iter().map(row).collect()
        };
        let (d, t) = (centred(&h), centred(&exact));
        let sum =
            |i: usize, of: &dyn Fn(usize) -> f64| (0..count).map(|n| d[n][i] * of(n)).sum::<f64>();
        let a = (0..hidden).map(|i| {
            let ridge = |j| if i == j { fit.ridge } else { 0.0 };
            (0..hidden)
                .map(|j| sum(i, &|n| d[n][j]) + ridge(j))
                .collect()
        });
        let b = (0..hidden).map(|i| (0..t[0].len()).map(|k| sum(i, &|n| t[n][k])).collect());
        let slopes = solve(a.collect(), b.collect());

        for f in images(5, 2).chunks(EMBEDDING) {
            let h = conditional.hidden(f).unwrap();
            let found = head.similarities(f, &h).unwrap();
            for (class, &found) in found.iter().enumerate() {
                let value = |k: usize| {
                    let moved = (0..hidden).map(|i| {
                        (f64::from(h[i]) - f64::from(fit.terms.mean.data[i])) * slopes[i][k]
                    });
                    mean(&exact, k) + moved.sum::<f64>()
                };
                let expected: f64 = (0..EMBEDDING)
                    .map(|i| f64::from(f[i]) * value(class * EMBEDDING + i))
                    .sum();
                let apart = (f64::from(found) - expected).abs();
                assert!(apart < 2e-5, "{count} images: {found} for {expected}");
            }
        }
    }
}

#[test]
fn a_head_approximates_small_shifts() {
    let (encoder, conditional) = conditional(0.1);
    let options = FitOptions::default();
    let fit = fitted(&encoder, &conditional, &images(60, 1), options);
    assert!(fit.residual < 0.02, "{}", fit.residual);
    assert!(
        fit.unexplained <= f64::from(options.unexplained),
        "{}",
        fit.unexplained
    );
    let head = head(&conditional, &fit.terms);
    let others = images(30, 7);
    let quiet = &mut |_, _| {};
    let found = fidelity(
        &conditional,
        &encoder,
        &head,
        &others,
        100.0,
        &[1, 3, 7],
        quiet,
    )
    .unwrap();
    // Without the image-dependent part.
    let mut still = fit.terms.clone();
    still.core.data.fill(0.0);
    still.common.data.fill(0.0);
    let still = self::head(&conditional, &still);
    let fixed = fidelity(&conditional, &encoder, &still, &others, 100.0, &[], quiet).unwrap();
    assert_eq!((found.images, found.shortlists.len()), (30, 3));
    assert!(found.linear.top1 >= 0.9, "{found:?}");
    assert!(
        found.linear.mean_logit_difference < 0.2 * fixed.linear.mean_logit_difference,
        "{found:?} against {fixed:?}"
    );
    let (k, all) = found.shortlists[2];
    assert!(
        k == 7 && all.top1 == 1.0 && all.largest_logit_difference == 0.0,
        "{found:?}"
    );
    assert!(
        found.shortlists[1].1.mean_logit_difference < found.linear.mean_logit_difference,
        "{found:?}"
    );
    // The same, computed directly.
    let mut sum = 0.0;
    for f in others.chunks(EMBEDDING) {
        let exact = conditional.similarities(&encoder, f, None).unwrap();
        let linear = shortlist(&conditional, &encoder, &head, f, 0).unwrap();
        let apart = exact
            .iter()
            .zip(&linear)
            .map(|(e, l)| f64::from((e - l).abs()));
        sum += 100.0 * apart.sum::<f64>() / (exact.len() * 30) as f64;
    }
    assert!((sum - f64::from(found.linear.mean_logit_difference)).abs() < 1e-6);
}

/// If this fails, the reduced head is larger than allowed or too far from the unreduced one.
#[test]
fn a_head_is_reduced_as_far_as_allowed() {
    let (encoder, conditional) = conditional(0.5);
    let calibration = images(50, 1);
    let whole = fitted(&encoder, &conditional, &calibration, WHOLE);
    let mut sizes = Vec::new();
    for unexplained in [0.01, 0.1, 0.5] {
        let options = FitOptions {
            unexplained,
            ..FitOptions::default()
        };
        let fit = fitted(&encoder, &conditional, &calibration, options);
        assert!(fit.unexplained <= f64::from(unexplained));
        sizes.push(fit.terms.core.data.len());
        // The reported share equals the measured one.
        let (head, reference) = (
            head(&conditional, &fit.terms),
            head(&conditional, &whole.terms),
        );
        let mut none = whole.terms.clone();
        none.core.data.fill(0.0);
        let none = self::head(&conditional, &none);
        let (mut left, mut all) = (0.0, 0.0);
        for f in calibration.chunks(EMBEDDING) {
            let h = conditional.hidden(f).unwrap();
            let of = |head: &LinearHead| head.similarities(f, &h).unwrap();
            for ((r, n), s) in of(&reference).iter().zip(of(&none)).zip(of(&head)) {
                left += f64::from(r - s).powi(2);
                all += f64::from(r - n).powi(2);
            }
        }
        assert!(
            (left / all - fit.unexplained).abs() < 1e-3,
            "{} for {}",
            left / all,
            fit.unexplained
        );
    }
    assert!(
        sizes[0] < whole.terms.core.data.len() && sizes.is_sorted_by(|a, b| a > b),
        "{sizes:?}"
    );
    let few = FitOptions {
        unexplained: 0.0,
        most_terms: 6,
    };
    let fit = fitted(&encoder, &conditional, &calibration, few);
    assert!(fit.terms.core.data.len() <= 6 * conditional.classes().len());
}

#[test]
fn a_head_can_be_fitted_to_one_or_two_images() {
    let (encoder, conditional) = conditional(1.0);
    let one = images(1, 3);
    for calibration in [one.clone(), one.repeat(4)] {
        let fit = fitted(&encoder, &conditional, &calibration, FitOptions::default());
        let head = head(&conditional, &fit.terms);
        let h = conditional.hidden(&one).unwrap();
        let exact = conditional.similarities(&encoder, &one, None).unwrap();
        for (found, exact) in head.similarities(&one, &h).unwrap().iter().zip(exact) {
            assert!((found - exact).abs() < 1e-5);
        }
        assert_eq!(fit.movement, 0.0);
    }
    let error = fit(&conditional, &encoder, &[], WHOLE, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Input { found: 0, .. }), "{error}");
    let error = fit(&conditional, &encoder, &one[1..], WHOLE, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Input { found: 23, .. }), "{error}");
}

#[test]
fn a_stored_head_is_bit_identical_and_a_damaged_one_is_refused() {
    let (encoder, conditional) = conditional(0.5);
    let fit = fitted(
        &encoder,
        &conditional,
        &images(20, 1),
        FitOptions::default(),
    );
    let stored = |name: &str| {
        let tensors = fit.terms.tensors();
        let found = tensors.iter().find(|(n, _)| *n == name);
        Ok(found.unwrap_or_else(|| panic!("{name}")).1.clone())
    };
    assert_eq!(LinearTerms::from_tensors(stored).unwrap(), fit.terms);
    let (classes, hidden) = (conditional.classes().len(), conditional.hidden_len());
    let refused = |change: &dyn Fn(&mut LinearTerms)| {
        let mut terms = fit.terms.clone();
        change(&mut terms);
        LinearHead::new(&terms, classes, hidden)
            .unwrap_err()
            .to_string()
    };
    let nan = refused(&|terms| terms.core.data[1] = f32::NAN);
    assert!(
        nan.starts_with("tensor linear.core: value 1 is NaN"),
        "{nan}"
    );
    let short = refused(&|terms| terms.basis.data.truncate(5));
    assert!(short.starts_with("tensor linear.basis"), "{short}");
    let other = refused(&|terms| terms.directions.shape[1] += 1);
    assert!(other.starts_with("tensor linear.directions"), "{other}");
    let none = refused(&|terms| {
        terms.basis = Tensor {
            shape: vec![0, EMBEDDING],
            data: vec![],
        };
        terms.core.shape[2] = 0;
        terms.core.data.clear();
    });
    assert!(none.starts_with("tensor linear.basis"), "{none}");
    let flat = refused(&|terms| terms.class_embeddings.shape = vec![]);
    assert!(flat.starts_with("tensor linear.class_embeddings"), "{flat}");
    assert!(LinearHead::new(&fit.terms, classes + 1, hidden).is_err());
    assert!(LinearHead::new(&fit.terms, classes, hidden + 1).is_err());

    let head = head(&conditional, &fit.terms);
    let f = images(1, 9);
    assert!(matches!(
        head.similarities(&f, &[0.0; 5]),
        Err(Error::Input { .. })
    ));
    assert!(matches!(
        head.similarities(&f[1..], &[0.0; 6]),
        Err(Error::Input { .. })
    ));
    let fewer = Classes::new(["cat", "forest"]).unwrap();
    let learner = Golden::read().cocoop();
    let fewer = Conditional::new(&encoder, &Tokenizer::new(), &fewer, &learner).unwrap();
    assert!(matches!(
        shortlist(&fewer, &encoder, &head, &f, 1),
        Err(Error::Input { .. })
    ));
}

#[test]
fn a_shortlist_is_exact_for_its_classes() {
    let (encoder, conditional) = conditional(1.0);
    let fit = fitted(
        &encoder,
        &conditional,
        &images(30, 1),
        FitOptions::default(),
    );
    let head = head(&conditional, &fit.terms);
    for f in images(10, 5).chunks(EMBEDDING) {
        let exact = conditional.similarities(&encoder, f, None).unwrap();
        let linear = head
            .similarities(f, &conditional.hidden(f).unwrap())
            .unwrap();
        let run = |k| shortlist(&conditional, &encoder, &head, f, k).unwrap();
        assert_eq!(run(0), linear);
        assert_eq!(run(7), exact);
        assert_eq!(run(usize::MAX), exact);
        let found = run(3);
        let mut order: Vec<usize> = (0..7).collect();
        order.sort_by(|&a, &b| linear[b].total_cmp(&linear[a]));
        let least = order[..3]
            .iter()
            .map(|&c| exact[c])
            .fold(f32::INFINITY, f32::min);
        for (rank, &class) in order.iter().enumerate() {
            match rank < 3 {
                true => assert_eq!(found[class], exact[class]),
                false => assert!(found[class] < least),
            }
        }
    }
    // An unlimited budget gives the exact mode, no budget the first-order head.
    let costs = Costs::measure(&conditional, &encoder).unwrap();
    assert!(costs.fixed >= 0.0 && costs.per_class >= 0.0 && costs.fixed + costs.per_class > 0.0);
    let f = &images(1, 6);
    let run = |seconds| {
        let mut auto = Auto::new(std::time::Duration::from_secs(seconds), 7, costs);
        auto.similarities(&conditional, &encoder, &head, f).unwrap()
    };
    assert_eq!(
        run(1000),
        (
            conditional.similarities(&encoder, f, None).unwrap(),
            Plan::Exact
        )
    );
    assert_eq!(run(0).1, Plan::Linear);
}

#[test]
fn a_static_stream_reuses_class_embeddings_and_keeps_the_ranking() {
    let (encoder, conditional) = conditional(0.2);
    let all = images(40, 1);
    let movement = fitted(&encoder, &conditional, &all, WHOLE).movement;
    assert!(movement > 0.0);
    // A slow transition from one calibration image to the next, as in a camera's stream.
    let frame = |step: usize| {
        let (from, share) = (step / 100, (step % 100) as f32 / 100.0);
        let at = |i: usize| &all[i * EMBEDDING..][..EMBEDDING];
        let both = at(from).iter().zip(at(from + 1));
        let mut f: Vec<f32> = both.map(|(a, b)| a + share * (b - a)).collect();
        pinhole_kernels::l2_normalize(&mut f);
        f
    };
    let mut stream = Reuse::new(movement, 100.0, 1.0).unwrap();
    let (mut spared, frames) = (0, 500);
    for step in 0..frames {
        let f = frame(step);
        let found = stream.similarities(&conditional, &encoder, &f).unwrap();
        let exact = conditional.similarities(&encoder, &f, None).unwrap();
        let apart = found
            .similarities
            .iter()
            .zip(&exact)
            .map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f32::max);
        assert!(apart <= found.error + 1e-5, "{apart} for {}", found.error);
        assert!(found.error <= 0.01 && (found.reused || found.error == 0.0));
        let first = |s: &[f32]| (0..s.len()).max_by(|&a, &b| s[a].total_cmp(&s[b]));
        assert_eq!(first(&found.similarities), first(&exact));
        spared += usize::from(found.reused);
    }
    assert!(spared > frames / 2 && spared < frames - 2, "{spared}");

    let f = frame(0);
    let mut strict = Reuse::new(movement, 100.0, 0.0).unwrap();
    let mut again = |f: &[f32]| strict.similarities(&conditional, &encoder, f).unwrap();
    assert!(!again(&f).reused);
    let second = again(&f);
    assert!(second.reused && second.error == 0.0);
    assert!(!again(&frame(400)).reused);
    let far = Reuse::new(f32::MAX, 100.0, f32::INFINITY);
    let mut far = far.unwrap();
    assert!(!far.similarities(&conditional, &encoder, &f).unwrap().reused);
    assert!(
        !far.similarities(&conditional, &encoder, &frame(1))
            .unwrap()
            .reused,
        "no margin is enough"
    );

    for (movement, scale, tolerance) in
        [(f32::NAN, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, f32::NAN)]
    {
        assert!(matches!(
            Reuse::new(movement, scale, tolerance),
            Err(Error::Reuse { .. })
        ));
    }
}

#[test]
fn other_learners_are_refused_with_the_field() {
    let golden = Golden::read();
    let (encoder, classes) = (golden.encoder(), golden.classes());
    let refused = |change: &dyn Fn(&mut PromptLearner)| {
        let mut learner = golden.cocoop();
        change(&mut learner);
        let error = Conditional::new(&encoder, &Tokenizer::new(), &classes, &learner);
        error.unwrap_err().to_string()
    };
    let says = |message: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(refused(&|l| l.meta_net = None), &["meta_net", "none"]);
    says(
        refused(&|l| l.context = golden.tensor("specific")),
        &["ctx", "[7, 5, 32]"],
    );
    says(refused(&|l| l.context.shape = vec![128]), &["ctx", "[128]"]);
    says(
        refused(&|l| l.context.data[5] = f32::INFINITY),
        &["tensor ctx", "5", "inf"],
    );
    says(
        refused(&|l| l.context.shape = vec![8, 16]),
        &["width", "16", "32"],
    );
    says(
        refused(&|l| l.class_position = Some(ClassPosition::Front)),
        &["front", "end"],
    );
    let net = |l: &mut PromptLearner, change: &dyn Fn(&mut pinhole_model::MetaNet)| {
        change(l.meta_net.as_mut().unwrap());
    };
    let empty = Tensor {
        shape: vec![0, EMBEDDING],
        data: vec![],
    };
    says(
        refused(&|l| net(l, &|n| n.linear1_weight = empty.clone())),
        &["meta_net.linear1.weight", "[0, 24]"],
    );
    says(
        refused(&|l| net(l, &|n| n.linear1_weight.shape = vec![9, 16])),
        &["meta-net", "16", "24"],
    );
    says(
        refused(&|l| net(l, &|n| n.linear1_bias.data[0] = f32::NAN)),
        &["meta_net.linear1.bias", "NaN"],
    );
    says(
        refused(&|l| net(l, &|n| n.linear2_weight.shape = vec![6, 32])),
        &["meta_net.linear2.weight", "[32, 6]", "[6, 32]"],
    );
    says(
        refused(&|l| net(l, &|n| n.linear2_bias.data.clear())),
        &["meta_net.linear2.bias"],
    );
    let long = |l: &mut PromptLearner| {
        l.context = Tensor {
            shape: vec![72, 32],
            data: vec![0.0; 72 * 32],
        };
    };
    // "St. Bernard dog" with its full stop needs six rows after SOT and the context.
    says(refused(&long), &["72 context vectors", "77"]);

    let good = Conditional::new(&encoder, &Tokenizer::new(), &classes, &golden.cocoop()).unwrap();
    let f = &golden.features()[0];
    let doubled: Vec<f32> = f.iter().map(|v| 2.0 * v).collect();
    assert!(matches!(
        good.exact(&encoder, &doubled, None),
        Err(Error::NotUnit { .. })
    ));
    let nan = vec![f32::NAN; EMBEDDING];
    assert!(matches!(
        good.exact(&encoder, &nan, None),
        Err(Error::NotUnit { .. })
    ));
    assert!(matches!(
        good.exact(&encoder, &f[1..], None),
        Err(Error::Input { found: 23, .. })
    ));
    assert!(matches!(
        good.exact(&encoder, f, Some(&[7])),
        Err(Error::Input { found: 7, .. })
    ));
    assert!(matches!(
        good.shift(&[0.0; 5]),
        Err(Error::Input { found: 5, .. })
    ));
    assert!(matches!(
        good.exact_shifted(&encoder, &[], None),
        Err(Error::Input { found: 0, .. })
    ));
}
